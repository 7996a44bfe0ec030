#!/bin/sh
# Checks the systemd units without starting them: syntax, and that their
# exposure, as systemd scores it (0 best, 10 worst), stays at or below 2.0.
set -eu
cd "$(dirname "$0")/systemd"
if ! command -v systemd-analyze >/dev/null 2>&1; then
	echo "SKIP infra/packages: systemd-analyze is not installed"
	exit 0
fi
for unit in *.service; do
	systemd-analyze security --no-pager --offline=true --threshold=20 "./$unit" | tail -1
done
