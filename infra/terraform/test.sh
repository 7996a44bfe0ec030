#!/bin/sh
# Formats, validates and tests the Terraform modules against mocks: no account,
# no network. Where Terraform or its AWS provider is missing it says so and
# ends well.
#
# TF_PLUGIN_DIR names a folder of unpacked providers; /opt/tf-plugins and
# ~/.terraform.d/plugins are looked for by themselves.
set -eu
cd "$(dirname "$0")"
if ! command -v terraform >/dev/null 2>&1; then
	echo "SKIP infra/terraform: terraform is not installed"
	exit 0
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
: >"$work/rc"
export TF_CLI_CONFIG_FILE="$work/rc" TF_IN_AUTOMATION=1 CHECKPOINT_DISABLE=1
plugins=
for dir in "${TF_PLUGIN_DIR:-}" /opt/tf-plugins "$HOME/.terraform.d/plugins"; do
	if [ -n "$dir" ] && [ -d "$dir/registry.terraform.io/hashicorp/aws" ]; then
		plugins="-plugin-dir=$dir"
		break
	fi
done

terraform fmt -check -recursive -diff .
cp -R modules examples "$work" # init leaves files behind; not in the tree
cd "$work"
for module in modules/* examples/*; do
	if ! terraform -chdir="$module" init -backend=false -input=false $plugins >init.log 2>&1; then
		if [ -z "$plugins" ]; then
			echo "SKIP infra/terraform/$module: its AWS provider cannot be had here"
			continue
		fi
		cat init.log
		exit 1
	fi
	terraform -chdir="$module" validate -no-color
	if [ -d "$module/tests" ]; then
		terraform -chdir="$module" test -no-color
	fi
done
