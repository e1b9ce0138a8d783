#!/bin/sh
# Installs what system-packages.txt names and is missing, with apt-get, and says what it did. A second run does nothing.
# With --try, as a build machine calls it: quiet, and never an error; what cannot be installed is said in one line.
set -eu
cd "$(dirname "$0")/.."
try=${1:-}

stop() {
  echo "setup-system: $1" >&2
  [ "$try" = --try ] && exit 0
  exit 1
}

wanted=$(sed -e 's/#.*//' system-packages.txt)
missing=
if command -v dpkg-query >/dev/null 2>&1; then
  for package in $wanted; do
    dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'install ok installed' || missing="$missing $package"
  done
else
  missing=" $(echo $wanted)"
fi
if [ -z "$missing" ]; then
  [ "$try" = --try ] || echo "setup-system: all there: $(echo $wanted)"
  exit 0
fi
command -v apt-get >/dev/null 2>&1 || stop "there is no apt-get here; install these with your system's own tool:$missing"
[ "$(id -u)" = 0 ] || stop "installing needs root; run: sudo apt-get install$missing"
export DEBIAN_FRONTEND=noninteractive
bounded=
command -v timeout >/dev/null 2>&1 && bounded="timeout 300"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
if ! { $bounded apt-get -qq update && $bounded apt-get -qq -y --no-install-recommends install $missing; } </dev/null >"$log" 2>&1; then
  [ "$try" = --try ] || cat "$log" >&2
  stop "apt-get could not install:$missing"
fi
echo "setup-system: installed:$missing" >&2
