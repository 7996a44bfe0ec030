#!/bin/sh
# Builds deb and rpm of what is in bin/, into out/. Reproducible: the time in
# the packages is that of the last commit.
set -eu
cd "$(dirname "$0")/../.."
version=${1:?version}
case $version in
v[0-9]*) version=${version#v} ;;
*) version=0.0.0+$(echo "$version" | tr -c 'A-Za-z0-9\n' '.') ;;
esac
MTIME=$(git log -1 --format=%cI 2>/dev/null || date -u +%Y-%m-%dT%H:%M:%SZ)
export VERSION="$version" ARCH="${GOARCH:-$(go env GOARCH)}" MTIME
mkdir -p out
for what in agent coordinator; do
	for format in deb rpm; do
		go run github.com/goreleaser/nfpm/v2/cmd/nfpm@v2.44.2 package -f "infra/packages/nfpm-$what.yaml" -p "$format" -t out/
	done
done
