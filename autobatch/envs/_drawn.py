"""An environment that can be drawn: lines of text, or the plane with beacons and journey."""

from typing import Any

import gymnasium
import numpy as np
from gymnasium.error import ResetNeeded
from numpy.typing import NDArray

from autobatch._errors import ConfigError, near_names


class DrawnEnv(gymnasium.Env[NDArray[np.float32], Any]):
    """What the environments of one training have in common.

    Args:
        render_mode: ``"ansi"``, ``"rgb_array"`` or None.

    Raises:
        ConfigError: the mode is none of these.
    """

    metadata = {"render_modes": ["ansi", "rgb_array"], "render_fps": 4}  # noqa: RUF012  (as Gymnasium declares it)

    def __init__(self, render_mode: str | None) -> None:
        modes = self.metadata["render_modes"]
        if render_mode is not None and render_mode not in modes:
            raise ConfigError(f"render_mode: no mode is called {render_mode!r}; {near_names(str(render_mode), modes)}")
        self.render_mode = render_mode

    def render(self) -> str | NDArray[np.uint8] | None:
        """Return what ``render_mode`` asks for: lines of text, or the plane with beacons and journey.

        Returns:
            The text, or the picture as uint8 of shape (height, width, 3); None without a ``render_mode``.

        Raises:
            ResetNeeded: nothing has begun.
        """
        if self.render_mode is None:
            gymnasium.logger.warn(
                "render() was called without a render_mode; give one to gymnasium.make(), 'ansi' or 'rgb_array'"
            )
            return None
        drawn = self._drawn(self.render_mode)
        if drawn is None:
            raise ResetNeeded("render() was called before reset()")
        return drawn

    def _drawn(self, mode: str) -> str | NDArray[np.uint8] | None:
        """Return the text or the picture; None where nothing has begun."""
        raise NotImplementedError
