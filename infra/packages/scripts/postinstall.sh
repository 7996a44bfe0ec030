#!/bin/sh
# Makes the user; starting the service is the administrator's choice.
set -e
if command -v systemd-sysusers >/dev/null 2>&1; then
	systemd-sysusers modelfleet.conf || true
fi
if ! getent passwd modelfleet >/dev/null 2>&1; then
	useradd --system --no-create-home --shell /usr/sbin/nologin modelfleet
fi
if [ -d /run/systemd/system ]; then
	systemctl daemon-reload || true
fi
