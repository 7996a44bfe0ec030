package fleet

import (
	"slices"
	"strings"

	"github.com/modelfleet/modelfleet/pkg/fault"
)

// Variant is the form of a release for one hardware class.
type Variant struct {
	Name    string   `json:"name"`              // "default", or what the publisher called it
	Classes []string `json:"classes,omitempty"` // hardware classes it is for; empty: any
	Root    Digest   `json:"root"`              // OMS root digest: what a member observes itself running
	Bundle  Digest   `json:"bundle"`            // SHA-256 of the OMS bundle, the TUF target
	Size    int64    `json:"size"`              // bytes of all files, plain
}

// DefaultVariant is the name of a release's variant when it has just one.
const DefaultVariant = "default"

// Release is one version of a model as published.
type Release struct {
	Team     Team      `json:"team"`
	Model    ModelName `json:"model"`
	Version  Version   `json:"version"`
	Counter  uint64    `json:"counter"` // grows with each release of the model; floors compare it
	Variants []Variant `json:"variants"`
}

// Ref is what people call a release: "detector@1.5.0".
func (r Release) Ref() string { return string(r.Model) + "@" + string(r.Version) }

// BundlePath is the TUF target path, and S3 key, of a variant's OMS bundle.
func (r Release) BundlePath(variant string) string {
	return "models/" + string(r.Team) + "/" + string(r.Model) + "/" + string(r.Version) + "/" + variant + ".oms"
}

// For picks the variant that fits a member: the first that names its class,
// else the first that names none. ok is false when no variant fits.
func (r Release) For(f Facts) (v Variant, ok bool) {
	for _, v := range r.Variants {
		if slices.Contains(v.Classes, f.Class()) {
			return v, true
		}
	}
	for _, v := range r.Variants {
		if len(v.Classes) == 0 {
			return v, true
		}
	}
	return Variant{}, false
}

// Has reports whether root is the digest of one of the release's variants.
func (r Release) Has(root Digest) bool {
	return slices.ContainsFunc(r.Variants, func(v Variant) bool { return v.Root == root })
}

// ParseRef reads "model@version".
func ParseRef(s string) (ModelName, Version, error) {
	name, label, ok := strings.Cut(s, "@")
	if !ok {
		return "", "", fault.Newf(fault.Invalid, "read release", s, "no @ in it").
			WithHint("write model@version, for example detector@1.5.0")
	}
	m, err := ParseModelName(name)
	if err != nil {
		return "", "", err
	}
	v, err := ParseVersion(label)
	return m, v, err
}
