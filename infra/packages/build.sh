#!/bin/sh
# Builds deb and rpm of what is in bin/, into out/. Reproducible: the time in
# the packages is that of the last commit.
#
# `modelfleet` says itself what shells complete; built for this machine, as the
# packages may be for another.
set -eu
cd "$(dirname "$0")/../.."
version=${1:?version}
case $version in
v[0-9]*) version=${version#v} ;;
*) version=0.0.0+$(echo "$version" | tr -c 'A-Za-z0-9\n' '.') ;;
esac
arch=${GOARCH:-$(go env GOARCH)}
mtime=$(git log -1 --format=%cI 2>/dev/null || date -u +%Y-%m-%dT%H:%M:%SZ)
mkdir -p out
filled=$(mktemp)
work=$(mktemp -d)
trap 'rm -rf "$filled" "$work"' EXIT
GOOS='' GOARCH='' go build -o "$work/modelfleet" ./coordinator/cmd/modelfleet
mkdir "$work/out"
for shell in bash zsh fish; do
	"$work/modelfleet" completion "$shell" >"$work/$shell"
done
for what in agent coordinator; do
	sed -e "s|@VERSION@|$version|g" -e "s|@ARCH@|$arch|g" -e "s|@MTIME@|$mtime|g" -e "s|@COMPLETIONS@|$work|g" "infra/packages/nfpm-$what.yaml" >"$filled"
	for format in deb rpm; do
		go run github.com/goreleaser/nfpm/v2/cmd/nfpm@v2.44.2 package -f "$filled" -p "$format" -t "$work/out/"
	done
done
sh infra/packages/check.sh "$work"/out/*
mv "$work"/out/* out/
