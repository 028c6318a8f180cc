#!/bin/sh
# install.sh VENV EXTRAS: makes the virtual environment and installs fieldguide with these extras, pinned by
# constraints.txt. Uses uv when it can be had, else pip. Does nothing when nothing has changed since the last call.
set -eu
venv=$1 extras=$2
python=${PYTHON:-}
ask='import sys; sys.exit(sys.version_info < (3, 11))'
if [ -z "$python" ]; then
  for candidate in python3 python python3.14 python3.13 python3.12 python3.11; do
    if command -v "$candidate" >/dev/null 2>&1 && "$candidate" -c "$ask" 2>/dev/null; then python=$candidate; break; fi
  done
fi
if [ -z "$python" ] || ! "$python" -c "$ask" 2>/dev/null; then
  echo "install: Python 3.11 or newer is needed; install one or name it: make PYTHON=/path/to/python3.12 demo" >&2
  exit 2
fi

wanted=$(cat pyproject.toml constraints.txt tools/install.sh | cksum)
mark() { echo "$venv/.installed-$(echo "${1:-core}" | tr ',' '-')"; }
current() { [ -x "$venv/bin/fieldguide" ] && [ "$(cat "$(mark "$1")" 2>/dev/null)" = "$wanted" ]; }
# The development environment holds everything the plain one does.
if current "$extras" || { [ -z "$extras" ] && current dev,parity,export,optimizers,text; }; then exit 0; fi

now() { date +%s; }
began=$(now)
say() { echo "[$(( $(now) - began )) s] $*"; }

if ! "$venv/bin/python" -c "$ask" 2>/dev/null; then
  say "making $venv with $("$python" --version)"
  if command -v uv >/dev/null 2>&1; then
    uv venv --quiet --seed --python "$python" "$venv"
  elif ! "$python" -m venv "$venv"; then
    echo "install: $python cannot make a virtual environment; on Debian or Ubuntu: apt-get install python3-venv" >&2
    exit 2
  fi
fi

target=.
[ -z "$extras" ] || target=".[$extras]"
uv=$(command -v uv || true)
if [ -z "$uv" ] && "$venv/bin/python" -m pip install --quiet uv 2>/dev/null; then uv=$venv/bin/uv; fi
say "installing fieldguide${extras:+ with $extras} into $venv with ${uv:-pip} (torch is the large part)"
if [ -n "$uv" ]; then
  "$uv" pip install --quiet --python "$venv/bin/python" --constraints constraints.txt --editable "$target"
else
  "$venv/bin/python" -m pip install --quiet --constraint constraints.txt --editable "$target"
fi
echo "$wanted" > "$(mark "$extras")"
say "installed"
