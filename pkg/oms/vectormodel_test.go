package oms_test

import (
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/x509"
	"slices"
	"strings"
	"testing"

	"github.com/modelfleet/modelfleet/pkg/oms"
)

// generate makes every family of vectors, the same each time.
func generate(t testing.TB) []family {
	t.Helper()
	var out []family
	for _, f := range []struct {
		name, about string
		make        func(*builder)
	}{
		{"roundtrip", "Models of every shape, signed by key.", roundtrips},
		{"certificate", "Chains: who may sign, and when.", certificates},
		{"signing", "Models that must not be signed, and some that may.", signings},
		{"folder", "Ways a folder may differ from what was signed.", folders},
		{"bundle", "Files that are not an OMS bundle.", bundles},
		{"signature", "The right bundle and the wrong key, or method.", signatures},
		{"statement", "Malformed statements, each signed by the right key.", statements},
		{"json", "Statements that two readers may read differently, each signed by the right key.", jsons},
		{"path", "Names that lead elsewhere, each signed by the right key.", paths},
		{"shard", "Shards that do not cover a file, each signed by the right key.", shards},
		{"foreign", "What other implementations write differently and must be accepted.", foreign},
		{"historical", "Bundles of the shapes that releases before v1.1 wrote.", historical},
	} {
		b := &builder{t: t, key: named(t, "publisher", elliptic.P256())}
		b.Family, b.About, b.Now = f.name, f.about, day
		f.make(b)
		out = append(out, b.family)
	}
	return out
}

func text(path, s string) file { return file{Path: path, Text: s} }

// simple is the model most vectors use: two files, and one more.
func simple() []file {
	return []file{text("left-out", ""), text("weights-1", "the first\n"), text("weights-2", "the second")}
}

func withoutLeftOut() oms.Options { return oms.Options{Ignore: []string{"left-out"}} }

func roundtrips(b *builder) {
	big := strings.Repeat("0123456789", 100)
	for _, c := range []struct {
		name  string
		files []file
		o     oms.Options
	}{
		{"two files, one left out", simple(), withoutLeftOut()},
		{"several folders", []file{text("config.json", "{}"), text("sub/adapter.bin", "a"), text("weights.bin", big)}, oms.Options{}},
		{"one file", []file{text("model.bin", big)}, oms.Options{}},
		{"binary content", []file{{Path: "header.bin", Hex: "0001fffe000089504e47"}, {Path: "all.bin", Hex: "000102fdfeff"}}, oms.Options{}},
		{"files whose names begin with a dot", []file{text(".config", "a"), text(".env.example", "b"), text("model.bin", "c")}, oms.Options{}},
		{"folders whose names begin with a dot", []file{text(".cache/w", "a"), text(".local/share/d", "b"), text("model.bin", "c")}, oms.Options{}},
		{"an empty file", []file{text("empty.bin", ""), text("model.bin", "x")}, oms.Options{}},
		{"git's files at the top are left out", []file{text(".git/HEAD", "a"), text(".gitattributes", "b"), text(".github/ci.yml", "c"), text(".gitignore", "d"), text(".gitmodules", "e"), text("model.bin", "x")}, oms.Options{}},
		{"git's files below are signed", []file{text("model.bin", "x"), text("sub/.gitignore", "y"), text("sub/.git/HEAD", "z")}, oms.Options{}},
		{"a path left out is exact", []file{text("left-out", "x"), text("model.bin", "y"), text("sub/left-out", "z")}, withoutLeftOut()},
		{"a folder left out", []file{text("logs/a/b", "x"), text("logsx", "y"), text("model.bin", "z")}, oms.Options{Ignore: []string{"logs"}}},
		{"several paths left out below", []file{text("model.bin", "x"), text("sub/.git/HEAD", "y"), text("sub/model.bin", "z")}, oms.Options{Ignore: []string{"sub/.git"}}},
		{"names that are not ASCII", []file{text("модель.bin", "x"), text("模型.bin", "y"), text("🦊", "z")}, oms.Options{}},
		{"names with spaces and marks", []file{text("file (copy).bin", "x"), text("a b/c 'd' \"e\" <f>.bin", "y"), text("100%&+;=,~.bin", "z")}, oms.Options{}},
		{"names that differ by case", []file{text("Model.bin", "x"), text("model.bin", "y")}, oms.Options{}},
		{"names that differ by Unicode form", []file{text("caf\u00e9", "x"), text("cafe\u0301", "y")}, oms.Options{}},
		{"names with line ends", []file{text("a\nb", "x"), text("c\td", "y")}, oms.Options{}},
		{"deep folders", []file{text("a/very/deep/tree/of/folders/w", "x")}, oms.Options{}},
		{"an order by bytes and not by element", []file{text("a/b", "x"), text("a.b", "y"), text("a-b", "z")}, oms.Options{}},
		{"shards", []file{text("w", big), text("x:0:3", "abc")}, oms.Options{Method: oms.Shards, ShardSize: 400}},
		{"shards whose names sort unlike their offsets", []file{text("w", "0123456789abcdef")}, oms.Options{Method: oms.Shards, ShardSize: 5}},
		{"shards of a file that they divide", []file{text("w", big)}, oms.Options{Method: oms.Shards, ShardSize: 500}},
		{"shards larger than the file", []file{text("w", big)}, oms.Options{Method: oms.Shards, ShardSize: 1000000000}},
	} {
		b.add(b.signed(c.name, c.files, c.o))
	}
	one := b.signed("a model of one file", []file{text("model.bin", "alone"), text("beside", "not of it")}, oms.Options{Ignore: []string{"beside"}})
	one.Only = "model.bin"
	b.add(one)
	in := b.signed("the bundle in the folder", simple(), oms.Options{Ignore: []string{"left-out", "model.sig"}})
	in.Model = append(in.Model, text("model.sig", "this would be the bundle"))
	b.add(in)
	by := b.signed("the bundle in the folder, which only the verifier knows", simple(), withoutLeftOut())
	by.Model, by.Ignore = append(by.Model, text("model.sig", "this would be the bundle")), []string{"model.sig"}
	b.add(by)
	more := b.signed("files more, when the verifier asks for no more than the signed", simple(), withoutLeftOut())
	more.Model, more.IgnoreUnsigned = append(more.Model, text("cache/more", "x"), file{Path: "link", Link: "weights-1"}), true
	b.add(more)
	for _, curve := range []elliptic.Curve{elliptic.P384(), elliptic.P521()} {
		name := curve.Params().Name
		b.key = named(b.t, name, curve)
		b.add(b.signed("a key on "+name, simple(), withoutLeftOut()))
	}
}

func certificates(b *builder) {
	rootKey, midKey, leafKey := named(b.t, "root", elliptic.P384()), named(b.t, "intermediate", elliptic.P384()), named(b.t, "leaf", elliptic.P256())
	otherRoot := issue(b.t, "root", named(b.t, "other root", elliptic.P256()).Public(), nil, named(b.t, "other root", elliptic.P256()), authority)
	// chain makes a vector by a chain of three, each changed.
	chain := func(name string, root, mid, leaf func(*x509.Certificate)) vector {
		rootCert := issue(b.t, "root", rootKey.Public(), nil, rootKey, both(authority, root))
		midCert := issue(b.t, "intermediate", midKey.Public(), rootCert, rootKey, both(authority, mid))
		leafCert := issue(b.t, "leaf", leafKey.Public(), midCert, midKey, leaf)
		return b.certified(name, leafKey, rootCert, leafCert, midCert)
	}
	none := func(*x509.Certificate) {}
	good := chain("root, intermediate and leaf", none, none, none)
	b.add(good)
	for _, c := range []struct {
		name            string
		root, mid, leaf func(*x509.Certificate)
	}{
		{"an expired leaf", none, none, expired},
		{"a leaf not valid yet", none, none, early},
		{"an expired intermediate", none, expired, none},
		{"an intermediate not valid yet", none, early, none},
		{"an expired root", expired, none, none},
		{"a root not valid yet", early, none, none},
		{"all expired", expired, expired, expired},
		{"an expired intermediate and leaf", none, expired, expired},
		{"a leaf that names no usage", none, none, func(c *x509.Certificate) { c.ExtKeyUsage = nil }},
		{"a leaf for servers", none, none, func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }},
		{"a leaf for any usage", none, none, func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageAny} }},
		{"a leaf not for signatures", none, none, func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageKeyAgreement }},
		{"an authority as leaf", none, none, func(c *x509.Certificate) { c.IsCA = true; c.KeyUsage |= x509.KeyUsageCertSign }},
		{"an intermediate that is no authority", none, func(c *x509.Certificate) { c.IsCA = false; c.KeyUsage = x509.KeyUsageDigitalSignature }, none},
		{"an intermediate for servers only", none, func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }, none},
		{"an intermediate whose path is too long", func(c *x509.Certificate) { c.MaxPathLenZero = true }, none, none},
	} {
		b.refuse(chain(c.name, c.root, c.mid, c.leaf), "verify", oms.Certificate)
	}
	b.add(chain("a leaf that says it is an authority but may not sign certificates", none, none, func(c *x509.Certificate) { c.IsCA = true }))
	other := good
	other.Name, other.Roots = "another root of the same name", []string{certificatePEM(otherRoot)}
	b.refuse(other, "verify", oms.Certificate)
	nobody := good
	nobody.Name, nobody.Roots = "no roots", nil
	b.refuse(nobody, "verify", oms.Certificate)
	b.refuse(b.changed(good, "without the intermediate", func(d *doc) { d.setChain(d.chain()[:1]) }, nil), "verify", oms.Certificate)
	b.key = leafKey
	b.refuse(b.changed(good, "the leaf last", func(d *doc) { c := d.chain(); d.setChain([]any{c[1], c[0]}) }, nil), "verify", oms.Certificate)
	b.refuse(b.changed(good, "an empty chain", func(d *doc) { d.setChain([]any{}) }, nil), "parse", oms.Malformed)
	b.refuse(b.changed(good, "not a certificate", func(d *doc) { d.setChain([]any{map[string]any{"rawBytes": "AAAA"}}) }, nil), "parse", oms.Malformed)
	b.refuse(b.changed(good, "more certificates than a chain may have", func(d *doc) { d.setChain(slices.Repeat(d.chain(), 9)) }, nil), "parse", oms.TooLarge)
	b.key = named(b.t, "stranger", elliptic.P256())
	b.refuse(b.changed(good, "signed by another key than the leaf's", nil, nil), "verify", oms.Signature)

	self := issue(b.t, "self", leafKey.Public(), nil, leafKey, nil)
	b.add(b.certified("a leaf that is its own root", leafKey, self, self))
	selfCA := issue(b.t, "self", leafKey.Public(), nil, leafKey, func(c *x509.Certificate) { c.IsCA = true })
	b.add(b.certified("a leaf that is its own root and calls itself an authority", leafKey, selfCA, selfCA))
	b.refuse(b.certified("an expired leaf that is its own root", leafKey, issue(b.t, "self", leafKey.Public(), nil, leafKey, expired), issue(b.t, "self", leafKey.Public(), nil, leafKey, expired)), "verify", oms.Certificate)
	for _, curve := range []elliptic.Curve{elliptic.P384(), elliptic.P521()} {
		k := named(b.t, "leaf", curve)
		cert := issue(b.t, "self", k.Public(), nil, k, nil)
		b.add(b.certified("a leaf on "+curve.Params().Name, k, cert, cert))
	}
	rootCert := issue(b.t, "root", rootKey.Public(), nil, rootKey, authority)
	ed := issue(b.t, "leaf", ed25519.NewKeyFromSeed(make([]byte, 32)).Public(), rootCert, rootKey, nil)
	v := b.changed(good, "a leaf with an Ed25519 key", func(d *doc) { d.setChain([]any{map[string]any{"rawBytes": ed.Raw}}) }, nil)
	v.Roots = []string{certificatePEM(rootCert)}
	b.refuse(v, "verify", oms.Unsupported)
}

// certified is the simple model signed by certificate.
func (b *builder) certified(name string, k steady, root *x509.Certificate, chain ...*x509.Certificate) vector {
	b.t.Helper()
	v := b.signed(name, simple(), withoutLeftOut())
	parsed, err := oms.Parse([]byte(v.Bundle))
	must(b.t, err)
	m, err := parsed.Unverified()
	must(b.t, err)
	raw, err := oms.SignCertificate(m, k, chain...)
	must(b.t, err)
	v.Method, v.Key, v.Bundle, v.Roots = "certificate", "", string(raw), []string{certificatePEM(root)}
	return v
}

func (d *doc) chain() []any {
	return d.material()["x509CertificateChain"].(map[string]any)["certificates"].([]any)
}

func (d *doc) setChain(c []any) {
	d.material()["x509CertificateChain"].(map[string]any)["certificates"] = c
}
