import pytest

from autobatch.policies._wording import brief, configuration, count, duration, estimate, figure, percent


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.04 s"),
        (0.364, "0.36 s"),
        (3.14, "3.1 s"),
        (9.96, "10 s"),
        (48.2, "48 s"),
        (200, "3 min 20 s"),
        (7500, "2 h 5 min"),
    ],
)
def test_durations(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("value", "uncertainty", "text"),
    [
        (0.03421, 0.00312, "0.0342 ± 0.0031"),
        (0.5, 0.1, "0.50 ± 0.10"),
        (152.3, 20.0, "152 ± 20"),
        (0.0342, 0.0, "0.0342"),
        (0.0342, float("nan"), "0.0342"),
    ],
)
def test_estimates_show_the_digits_that_mean_something(value, uncertainty, text):
    assert estimate(value, uncertainty) == text


@pytest.mark.parametrize(("value", "text"), [(0.034218, "0.0342"), (1523.4, "1523"), (0.0, "0"), (float("nan"), "nan")])
def test_figures(value, text):
    assert figure(value) == text


def test_names_counts_and_shares():
    assert configuration(64, 0.1) == "s64 at lr 0.1"
    assert [count(1, "epoch"), count(22, "epoch")] == ["1 epoch", "22 epochs"]
    assert [percent(0.05), percent(0.025)] == ["5 %", "2.5 %"]


@pytest.mark.parametrize(
    ("reason", "short"),
    [
        ("s32: the first batch size", "s32: the first batch size"),
        (
            "stay with s64 at lr 0.1: predicted final validation loss 0.1062 ± 0.0046, whose upper end 0.111 is 1.5 % "
            "above the best candidate, s32 at lr 0.05 with 0.109 (5 % is allowed); nothing within reach saves more",
            "stay with s64 at lr 0.1: predicted final validation loss 0.1062 ± 0.0046",
        ),
        (
            "as a scout; s32 at lr 0.05: the best of 3 scouts after 2 epochs, training loss 0.671 and validation 0.54; "
            "next s32 at lr 0.1, training loss 0.774 and validation 0.628, 13.4 % apart",
            "s32 at lr 0.05: the best of 3 scouts after 2 epochs, 13.4 % ahead of the next",
        ),
        (
            "the rate falls in a line to nothing after 14 epochs, which lets the loss settle: 95 % of 0.008",
            "the rate falls in a line to nothing after 14 epochs, which lets the loss settle",
        ),
        (
            "start with s64 at lr 0.1: batch size as it is (35 % sure), learning rate as it is (57 % sure); what",
            "start with s64 at lr 0.1: batch size as it is (35 % sure), learning rate as it is (57 % sure)",
        ),
        (
            "the rate falls in a line to nothing after 14 epochs, which lets the loss settle, and batches of 64 do "
            "part of that in fewer steps: 63.6 % of 0.008 with them calms the steps as 45 % would with 32",
            "the rate falls in a line to nothing after 14 epochs, which lets the loss settle, and batches of 64 do "
            "part of that in fewer steps",
        ),
        (
            "the rate falls in a line to nothing after 14 epochs, which lets the loss settle: 95 % of 0.008; by the "
            "rule alone, as 'training set' is 0.43 and was 0.47 to 0.60 in its training: outside by 34 % of that range",
            "the rate falls in a line to nothing after 14 epochs, which lets the loss settle; by the rule alone, as "
            "'training set' is 0.43 and was 0.47 to 0.60 in its training: outside by 34 % of that range",
        ),
        (
            "s32 at lr 0.1: the best of 3 scouts, training loss 0.6; as steer: an epoch has 8 steps, 3.9 times less "
            "than any learned from",
            "s32 at lr 0.1: the best of 3 scouts; as steer: an epoch has 8 steps, 3.9 times less than any learned from",
        ),
        ("as a scout", "as a scout"),
    ],
)
def test_a_reason_has_a_short_sentence(reason, short):
    assert brief(reason) == short
