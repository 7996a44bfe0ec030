#!/bin/sh
# On removal (not on upgrade) stops the service. State stays: it holds the
# device's identity and the models it serves.
set -e
case "${1:-}" in
remove | 0)
	if [ -d /run/systemd/system ]; then
		systemctl disable --now modelfleet-agent.service modelfleet-coordinator.service 2>/dev/null || true
	fi
	;;
esac
