#!/bin/sh
# Checks the systemd units without starting them: syntax, and that their
# exposure, as systemd scores it (0 best, 10 worst), stays at or below 2.0.
# With packages as arguments, checks what is in those: the operator's program
# brings the completions of three shells, where each looks for them.
set -eu
holds() { # PACKAGE LISTING FILE...
	package=$1 listing=$2
	shift 2
	for file; do
		echo "$listing" | grep -q "$file\$" || { echo "$package lacks $file" >&2 && exit 1; }
	done
}
completions='/usr/share/bash-completion/completions/modelfleet /usr/share/fish/vendor_completions.d/modelfleet.fish'
if [ $# -gt 0 ]; then
	for package; do
		case $package in
		*-coordinator*.deb)
			if command -v dpkg-deb >/dev/null 2>&1; then
				holds "$package" "$(dpkg-deb -c "$package")" $completions /usr/share/zsh/vendor-completions/_modelfleet
			fi
			;;
		*-coordinator*.rpm)
			if command -v rpm >/dev/null 2>&1; then
				holds "$package" "$(rpm -qlp "$package")" $completions /usr/share/zsh/site-functions/_modelfleet
			fi
			;;
		esac
	done
	exit 0
fi
cd "$(dirname "$0")/systemd"
if ! command -v systemd-analyze >/dev/null 2>&1; then
	echo "SKIP infra/packages: systemd-analyze is not installed"
	exit 0
fi
for unit in *.service; do
	systemd-analyze security --no-pager --offline=true --threshold=20 "./$unit" | tail -1
done
