package oms_test

import (
	"bytes"
	"crypto/elliptic"
	"encoding/base64"
	"fmt"
	"slices"
	"strings"

	"github.com/modelfleet/modelfleet/pkg/oms"
)

func signings(b *builder) {
	ok := func(name string, files []file, o oms.Options) vector {
		v := b.signed(name, files, o)
		return vector{Name: name, Model: files, Serialization: o.Method, ShardSize: o.ShardSize, Ignore: o.Ignore, Want: "ok", Root: v.Root}
	}
	b.add(ok("a link that is left out", []file{text("model.bin", "x"), {Path: "link", Link: "model.bin"}}, oms.Options{Ignore: []string{"link"}}))
	b.add(ok("folders with nothing in them", []file{text("model.bin", "x"), {Path: "a/b", Kind: "folder"}}, oms.Options{}))
	for _, c := range []struct {
		name  string
		files []file
		o     oms.Options
		want  oms.Class
	}{
		{"nothing in the folder", nil, oms.Options{}, oms.Empty},
		{"nothing but folders", []file{{Path: "a/b", Kind: "folder"}}, oms.Options{}, oms.Empty},
		{"nothing but what is always left out", []file{text(".gitignore", "x"), text(".git/HEAD", "y")}, oms.Options{}, oms.Empty},
		{"nothing but what is left out", []file{text("left-out", "x")}, withoutLeftOut(), oms.Empty},
		{"a link to a file", []file{text("model.bin", "x"), {Path: "link", Link: "model.bin"}}, oms.Options{}, oms.Irregular},
		{"a link out of the folder", []file{text("model.bin", "x"), {Path: "link", Link: "/etc/hostname"}}, oms.Options{}, oms.Irregular},
		{"a link to nothing", []file{text("model.bin", "x"), {Path: "link", Link: "/nowhere/at/all"}}, oms.Options{}, oms.Irregular},
		{"a link to its folder", []file{text("model.bin", "x"), {Path: "sub/link", Link: "."}}, oms.Options{}, oms.Irregular},
		{"a pipe", []file{text("model.bin", "x"), {Path: "pipe", Kind: "pipe"}}, oms.Options{}, oms.Irregular},
		{"a name that is not UTF-8", []file{text("model.bin", "x"), {PathHex: "62ff", Text: "y"}}, oms.Options{}, oms.Irregular},
		{"a folder whose name is not UTF-8", []file{text("model.bin", "x"), {PathHex: "62ff2f61", Text: "y"}}, oms.Options{}, oms.Irregular},
		{"a name with a backslash", []file{text("model.bin", "x"), text(`a\b`, "y")}, oms.Options{}, oms.Irregular},
		{"an empty file in shards", []file{text("model.bin", "x"), text("empty", "")}, oms.Options{Method: oms.Shards}, oms.Empty},
		{"a path to leave out that goes up", []file{text("model.bin", "x")}, oms.Options{Ignore: []string{"../x"}}, oms.Irregular},
		{"a path to leave out that is absolute", []file{text("model.bin", "x")}, oms.Options{Ignore: []string{"/x"}}, oms.Irregular},
		{"a path to leave out that is a pattern", []file{text("model.bin", "x")}, oms.Options{Ignore: []string{"*.bin"}}, oms.Irregular},
		{"a method that is none", []file{text("model.bin", "x")}, oms.Options{Method: "chunks"}, oms.Unsupported},
		{"a negative shard size", []file{text("model.bin", "x")}, oms.Options{Method: oms.Shards, ShardSize: -1}, oms.Unsupported},
		{"a shard size for whole files", []file{text("model.bin", "x")}, oms.Options{Method: oms.Files, ShardSize: 1}, oms.Unsupported},
	} {
		b.refuse(vector{Name: c.name, Model: c.files, Serialization: c.o.Method, ShardSize: c.o.ShardSize, Ignore: c.o.Ignore}, "sign", c.want)
	}
}

func folders(b *builder) {
	model := []file{text("a.b", "two"), text("a/b", "one"), text("weights.bin", strings.Repeat("0123456789", 100))}
	without := func(path string) []file {
		return slices.DeleteFunc(slices.Clone(model), func(f file) bool { return f.Path == path })
	}
	with := func(files []file, more ...file) []file { return append(slices.Clone(files), more...) }
	for _, method := range []oms.Method{oms.Files, oms.Shards} {
		o := oms.Options{Method: method}
		if method == oms.Shards {
			o.ShardSize = 400
		}
		good := b.signed("unchanged, in "+string(method), model, o)
		b.add(good)
		longer := oms.Changed
		if method == oms.Shards {
			longer = oms.Uncovered
		}
		for _, c := range []struct {
			name  string
			files []file
			want  oms.Class
		}{
			{"a byte changed", with(without("a.b"), text("a.b", "twO")), oms.Changed},
			{"a byte changed in the middle", with(without("weights.bin"), text("weights.bin", strings.Repeat("0123456789", 50)+"X123456789"+strings.Repeat("0123456789", 49))), oms.Changed},
			{"a file is gone", without("a/b"), oms.Missing},
			{"a file more", with(model, text("evil.py", "x")), oms.Extra},
			{"an empty file more", with(model, text("a/__init__.py", "")), oms.Extra},
			{"a file more below one that git has", with(model, text("a/.git/config", "x")), oms.Extra},
			{"bytes after the end", with(without("a.b"), text("a.b", "two+")), longer},
			{"cut short", with(without("a.b"), text("a.b", "tw")), oms.Changed},
			{"emptied", with(without("a.b"), text("a.b", "")), oms.Changed},
			{"a link to the same bytes", with(without("a.b"), text(".git/x", "two"), file{Path: "a.b", Link: ".git/x"}), oms.Irregular},
			{"a link more", with(model, file{Path: "etc", Link: "/etc"}), oms.Irregular},
			{"a pipe more", with(model, file{Path: "pipe", Kind: "pipe"}), oms.Irregular},
			{"a pipe in place of a file", with(without("a.b"), file{Path: "a.b", Kind: "pipe"}), oms.Irregular},
			{"a folder in place of a file", with(without("a.b"), file{Path: "a.b", Kind: "folder"}), oms.Missing},
			{"a name more that is not UTF-8", with(model, file{PathHex: "62ff", Text: "x"}), oms.Irregular},
			{"two files exchanged", with(without("a.b")[1:], text("a/b", "two"), text("a.b", "one")), oms.Changed},
			{"renamed to another case", with(without("a.b"), text("A.b", "two")), oms.Missing},
		} {
			v := good
			v.Name, v.Model = c.name+", in "+string(method), c.files
			b.refuse(v, "check", c.want)
			if c.want == oms.Extra || c.name == "a link more" || c.name == "a pipe more" || c.name == "a name more that is not UTF-8" {
				continue
			}
			v.IgnoreUnsigned, v.Name = true, v.Name+", asked for no more than the signed"
			b.refuse(v, "check", c.want)
		}
		hidden := good
		hidden.Name, hidden.Ignore = "a signed file that the verifier would look over, in "+string(method), []string{"a.b"}
		b.refuse(hidden, "check", oms.Missing)
	}
	one := b.signed("a model of one file by another name", []file{text("model.bin", "alone")}, oms.Options{})
	one.Model, one.Only = []file{text("other.bin", "alone")}, "other.bin"
	b.refuse(one, "check", oms.Missing)
	link := b.signed("a model of one file, reached by a link", []file{text("model.bin", "alone")}, oms.Options{})
	link.Model, link.Only = []file{text("away", "alone"), {Path: "model.bin", Link: "away"}}, "model.bin"
	b.refuse(link, "check", oms.Irregular)
}

func bundles(b *builder) {
	good := b.signed("good", simple(), withoutLeftOut())
	b.add(good)
	refuse := func(name, bundle string, want oms.Class) {
		v := good
		v.Name, v.Bundle = name, bundle
		b.refuse(v, "parse", want)
	}
	refuse("an empty file", "", oms.Malformed)
	refuse("not JSON", "garbage", oms.Malformed)
	refuse("other JSON", `{"garbage":true}`, oms.Malformed)
	refuse("null", "null", oms.Malformed)
	refuse("cut short", good.Bundle[:100], oms.Malformed)
	refuse("cut by a byte", good.Bundle[:len(good.Bundle)-1], oms.Malformed)
	refuse("something after it", good.Bundle+"{}", oms.Malformed)
	refuse("nested deeper than any bundle", strings.Repeat("[", 100000), oms.Malformed)
	refuse("a key twice", strings.Replace(good.Bundle, `{"mediaType"`, `{"mediaType":"x","mediaType"`, 1), oms.Malformed)
	refuse("a key twice but for case", strings.Replace(good.Bundle, `{"mediaType"`, `{"MediaType":"x","mediaType"`, 1), oms.Malformed)
	refuse("a key in another case", strings.Replace(good.Bundle, `"dsseEnvelope"`, `"dsseenvelope"`, 1), oms.Malformed)
	refuse("a payload twice", strings.Replace(good.Bundle, `{"payload":`, `{"payload":"AAAA","payload":`, 1), oms.Malformed)
	for _, c := range []struct {
		name   string
		change func(*doc)
		want   oms.Class
	}{
		{"no media type", func(d *doc) { delete(d.bundle, "mediaType") }, oms.Malformed},
		{"another media type", func(d *doc) { d.bundle["mediaType"] = "application/json" }, oms.Malformed},
		{"no verification material", func(d *doc) { delete(d.bundle, "verificationMaterial") }, oms.Malformed},
		{"empty verification material", func(d *doc) { d.bundle["verificationMaterial"] = map[string]any{} }, oms.Malformed},
		{"verification material of two methods", func(d *doc) { d.material()["x509CertificateChain"] = map[string]any{"certificates": []any{}} }, oms.Malformed},
		{"a public key that is not named", func(d *doc) { d.material()["publicKey"] = map[string]any{} }, oms.Malformed},
		{"the method sigstore", func(d *doc) {
			d.bundle["verificationMaterial"] = map[string]any{"certificate": map[string]any{"rawBytes": "AA=="}, "tlogEntries": []any{map[string]any{}}}
		}, oms.Unsupported},
		{"no envelope", func(d *doc) {
			d.bundle = map[string]any{"mediaType": d.bundle["mediaType"], "verificationMaterial": d.material()}
		}, oms.Malformed},
		{"no payload", func(d *doc) { d.envelope()["payload"] = nil }, oms.Malformed},
		{"no payload type", func(d *doc) { delete(d.envelope(), "payloadType") }, oms.Malformed},
		{"another payload type", func(d *doc) { d.envelope()["payloadType"] = "application/octet-stream" }, oms.Malformed},
		{"no signatures", func(d *doc) { d.envelope()["signatures"] = []any{} }, oms.Malformed},
		{"signatures that are no list", func(d *doc) { d.envelope()["signatures"] = d.signature() }, oms.Malformed},
		{"two signatures", func(d *doc) {
			d.envelope()["signatures"] = append(d.envelope()["signatures"].([]any), map[string]any{"sig": "AA=="})
		}, oms.Malformed},
		{"an empty signature", func(d *doc) { d.signature()["sig"] = "" }, oms.Malformed},
		{"a signature that is no base64", func(d *doc) { d.signature()["sig"] = "!!!!" }, oms.Malformed},
		{"a signature in base64 for URLs", func(d *doc) { d.signature()["sig"] = "_-_-" }, oms.Malformed},
		{"an unknown key in the bundle", func(d *doc) { d.bundle["extra"] = 1 }, oms.Malformed},
		{"an unknown key in the envelope", func(d *doc) { d.envelope()["extra"] = 1 }, oms.Malformed},
		{"an unknown key in the signature", func(d *doc) { d.signature()["cert"] = "" }, oms.Malformed},
		{"a message signature in place of the envelope", func(d *doc) { d.bundle["messageSignature"] = map[string]any{} }, oms.Malformed},
	} {
		d := apart(b.t, []byte(good.Bundle))
		c.change(d)
		v, from := good, "parse"
		if v.Name, v.Bundle = c.name, encode(b.t, d.bundle); c.want == oms.Unsupported {
			from = "verify" // well-formed: others verify it
		}
		b.refuse(v, from, c.want)
	}
}

func signatures(b *builder) {
	good := b.signed("good", simple(), withoutLeftOut())
	b.add(good)
	stranger := named(b.t, "stranger", elliptic.P256())
	wrong := good
	wrong.Name, wrong.Key = "another key", publicPEM(b.t, stranger)
	b.refuse(wrong, "verify", oms.Signature)
	wrong.Name, wrong.Key = "a key on another curve", publicPEM(b.t, named(b.t, "stranger", elliptic.P384()))
	b.refuse(wrong, "verify", oms.Signature)
	certificate := good
	certificate.Name, certificate.Method = "signed by key, verified by certificate", "certificate"
	b.refuse(certificate, "verify", oms.Unsupported)
	leaf := named(b.t, "leaf", elliptic.P256())
	cert := issue(b.t, "leaf", leaf.Public(), nil, leaf, nil)
	chain := b.certified("signed by certificate, verified by key", leaf, cert, cert)
	chain.Method, chain.Key, chain.Roots = "key", publicPEM(b.t, leaf), nil
	b.refuse(chain, "verify", oms.Unsupported)
	for _, c := range []struct {
		name   string
		change func(*doc)
	}{
		{"the payload of another", func(d *doc) { d.subject()["name"] = "other" }},
		{"a statement of another type, not signed again", func(d *doc) { d.statement["_type"] = "https://in-toto.io/Statement/v0.1" }},
		{"no resources, not signed again", func(d *doc) { d.predicate()["resources"] = []any{} }},
		{"a signature of another payload", nil},
	} {
		d := apart(b.t, []byte(good.Bundle))
		if c.change == nil {
			d.signature()["sig"] = apart(b.t, []byte(b.signed("", []file{text("x", "y")}, oms.Options{}).Bundle)).signature()["sig"]
		} else {
			c.change(d)
			d.envelope()["payload"] = base64.StdEncoding.EncodeToString([]byte(encode(b.t, d.statement)))
		}
		v := good
		v.Name, v.Bundle = c.name, encode(b.t, d.bundle)
		b.refuse(v, "verify", oms.Signature)
	}
	named := b.changed(good, "a key that the bundle names wrongly", func(d *doc) { d.material()["publicKey"] = map[string]any{"hint": strings.Repeat("0", 64)} }, nil)
	b.add(named) // the name is informative: what counts is the key the verifier trusts
	b.key = stranger
	b.refuse(b.changed(good, "signed by another, and naming the right key", nil, nil), "verify", oms.Signature)
	b.refuse(b.changed(good, "signed by another, with the right keyid", func(d *doc) { d.signature()["keyid"] = d.material()["publicKey"].(map[string]any)["hint"] }, nil), "verify", oms.Signature)
	b.key = leaf
	raw := good
	raw.Name, raw.Key = "signed without the envelope's encoding", publicPEM(b.t, leaf)
	raw.Bundle = string(resign(b.t, []byte(good.Bundle), leaf, nil, nil, func(p []byte) []byte { return p }))
	b.refuse(raw, "verify", oms.Signature)
	raw.Name = "signed with the encoding of release 0.2"
	raw.Bundle = string(resign(b.t, []byte(good.Bundle), leaf, nil, nil, oldPAE))
	b.refuse(raw, "verify", oms.Signature)
	raw.Name, raw.Historical = "signed with the encoding of release 0.2, though the statement is of today", true
	b.refuse(raw, "verify", oms.Unsupported)
}

func jsons(b *builder) {
	good := b.signed("good", simple(), withoutLeftOut())
	replace := func(old, new string) func([]byte) []byte {
		return func(p []byte) []byte {
			if !bytes.Contains(p, []byte(old)) {
				b.t.Fatalf("%q is not in the payload", old)
			}
			return bytes.Replace(p, []byte(old), []byte(new), 1)
		}
	}
	for _, c := range []struct {
		name string
		raw  func([]byte) []byte
	}{
		{"a key twice", replace(`{"_type"`, `{"_type":"x","_type"`)},
		{"a key twice but for case", replace(`"predicateType"`, `"PredicateType":"x","predicateType"`)},
		{"a key twice but for an escape", replace(`"predicateType"`, `"predicate\u0054ype":"x","predicateType"`)},
		{"a key twice but for the long s", replace(`"subject"`, `"\u017fubject":[],"subject"`)},
		{"a key in another case", replace(`"predicateType"`, `"PredicateType"`)},
		{"a resource's key twice", replace(`{"algorithm"`, `{"name":"x","algorithm"`)},
		{"a resource's key in another case", replace(`"name":"weights-1"`, `"Name":"weights-1"`)},
		{"a digest's key twice", replace(`{"sha256"`, `{"sha256":"x","sha256"`)},
		{"a key twice where more is allowed", replace(`{"algorithm"`, `{"annotations":{"a":1,"a":2},"algorithm"`)},
		{"something after it", func(p []byte) []byte { return append(p, "{}"...) }},
		{"a byte order mark before it", func(p []byte) []byte { return append([]byte("\ufeff"), p...) }},
		{"text that is not UTF-8", replace("weights-1", "w\xff")},
		{"half a surrogate pair", replace("weights-1", `w\ud800`)},
		{"a control character in text", replace("weights-1", "w\n")},
		{"an unknown escape", replace("weights-1", `w\x41`)},
		{"a comment", replace(`{"_type"`, `{/**/"_type"`)},
		{"a comma too many", replace(`],"serialization"`, `,],"serialization"`)},
		{"a number in place of text", replace(`"weights-1"`, `1`)},
		{"null in place of text", replace(`"weights-1"`, `null`)},
		{"null in place of a list", replace(`"subject":[`, `"subject":null,"x":[`)},
		{"a number that is none", replace(`"allow_symlinks":false`, `"allow_symlinks":00`)},
		{"text in place of a boolean", replace(`"allow_symlinks":false`, `"allow_symlinks":"false"`)},
		{"nested deeper than any statement", replace(`{"algorithm"`, `{"a":`+strings.Repeat("[", 64)+strings.Repeat("]", 64)+`,"algorithm"`)},
		{"empty", func([]byte) []byte { return []byte{} }},
		{"null", func([]byte) []byte { return []byte("null") }},
		{"a list", func(p []byte) []byte { return fmt.Appendf(nil, "[%s]", p) }},
	} {
		b.refuse(b.changed(good, c.name, nil, c.raw), "verify", oms.Malformed)
	}
	for _, c := range []struct {
		name string
		raw  func([]byte) []byte
	}{
		{"an escape in a key", replace(`"predicateType"`, `"predicate\u0054ype"`)},
		{"escapes in a name", replace(`"weights-1"`, `"\u0077eights\u002d1"`)},
		{"white space", replace(`{"_type"`, " \t\r\n{ \"_type\"")},
	} {
		b.add(b.changed(good, c.name, nil, c.raw))
	}
}
