# Prints the README's set-up commands: the fenced code blocks whose first line begins with "pip install".
#   awk -f .ci/readme-commands.awk README.md
/^```/ { inside = !inside; first = inside; next }
inside && first { first = 0; if (/^pip install /) print }
