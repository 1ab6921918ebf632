#!/bin/sh
# For plain `bentoml containerize`: runs once all that the base lacks is in /app/.venv. `nox -s image` needs none of it.
# The environment sees what the base holds, and is checked as a whole before it is shipped.
set -eu
venv=/app/.venv
lock="$BENTO_PATH/env/python/requirements.txt"
sed -i 's/^include-system-site-packages = .*/include-system-site-packages = true/' "$venv/pyvenv.cfg"
# What the base holds in another version than the lock was left out by its name: it is installed here.
wheels.py rest "$lock" >/tmp/rest.txt
env -u UV_EXCLUDE uv pip install --python "$venv" --no-deps --quiet -r /tmp/rest.txt
rm /tmp/rest.txt
"$venv/bin/python" /usr/local/bin/wheels.py check "$lock"
