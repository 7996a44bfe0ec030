#!/bin/sh
# Fuzzes every fuzz target of the repository for the given time each.
set -eu
cd "$(dirname "$0")/.."
time=${1:-20s}
grep -rlE --include='*_test.go' '^func Fuzz' . | while read -r file; do
	pkg=$(dirname "$file")
	grep -oE '^func Fuzz[A-Za-z0-9_]*' "$file" | cut -c6- | while read -r target; do
		echo "== $pkg $target"
		go test -run '^$' -fuzz "^$target\$" -fuzztime "$time" "$pkg"
	done
done
