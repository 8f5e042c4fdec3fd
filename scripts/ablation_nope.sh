#!/bin/sh
# Compare the base of `llamita ablate` with its variant nope over five seeds. Flags are passed on: --seeds 3, --data my.txt
set -e
exec llamita ablate --variants nope --seeds 5 "$@"
