package oms_test

import (
	"bytes"
	"crypto/elliptic"
	"encoding/json"
	"strings"
	"testing"

	"github.com/modelfleet/modelfleet/pkg/oms"
)

func encode(t testing.TB, v any) string {
	t.Helper()
	out, err := json.Marshal(v)
	must(t, err)
	return string(out)
}

func statements(b *builder) {
	good := b.signed("good", simple(), withoutLeftOut())
	b.add(b.changed(good, "signed again", nil, nil))
	for _, c := range []struct {
		name   string
		change func(*doc)
		want   oms.Class
	}{
		{"no type", func(d *doc) { delete(d.statement, "_type") }, oms.Malformed},
		{"another type", func(d *doc) { d.statement["_type"] = "https://in-toto.io/Statement/v0.1" }, oms.Malformed},
		{"no predicate type", func(d *doc) { delete(d.statement, "predicateType") }, oms.Unsupported},
		{"another predicate type", func(d *doc) { d.statement["predicateType"] = "https://example.com/other/v1.0" }, oms.Unsupported},
		{"the predicate type of release 0.2", func(d *doc) { d.statement["predicateType"] = "https://model_signing/Digests/v0.1" }, oms.Unsupported},
		{"an unknown key", func(d *doc) { d.statement["extra"] = 1 }, oms.Malformed},
		{"no predicate", func(d *doc) { delete(d.statement, "predicate") }, oms.Malformed},
		{"an empty predicate", func(d *doc) { d.statement["predicate"] = map[string]any{} }, oms.Malformed},
		{"an unknown key in the predicate", func(d *doc) { d.predicate()["unused"] = 1 }, oms.Malformed},
		{"no subject", func(d *doc) { delete(d.statement, "subject") }, oms.Malformed},
		{"an empty subject", func(d *doc) { d.statement["subject"] = []any{} }, oms.Malformed},
		{"two subjects", func(d *doc) { d.statement["subject"] = []any{d.subject(), d.subject()} }, oms.Malformed},
		{"a subject without name", func(d *doc) { d.subject()["name"] = "" }, oms.Malformed},
		{"a subject without digest", func(d *doc) { delete(d.subject(), "digest") }, oms.Malformed},
		{"another root digest", func(d *doc) { d.subject()["digest"] = map[string]any{"sha256": strings.Repeat("0", 64)} }, oms.Root},
		{"a root digest of another algorithm", func(d *doc) { d.subject()["digest"] = map[string]any{"sha512": "00"} }, oms.Malformed},
		{"a second root digest", func(d *doc) { d.subject()["digest"].(map[string]any)["sha512"] = "00" }, oms.Malformed},
		{"a root digest in capitals", func(d *doc) {
			digest := d.subject()["digest"].(map[string]any)
			digest["sha256"] = strings.ToUpper(digest["sha256"].(string))
		}, oms.Malformed},
		{"the root digest of another order", func(d *doc) {
			r := d.resources()
			d.setResources([]any{r[1], r[0]})
			d.predicate()["resources"] = r
		}, oms.Root},
		{"no serialization", func(d *doc) { delete(d.predicate(), "serialization") }, oms.Malformed},
		{"an empty serialization", func(d *doc) { d.predicate()["serialization"] = map[string]any{} }, oms.Malformed},
		{"an unknown key in the serialization", func(d *doc) { d.serialization()["extra"] = 1 }, oms.Malformed},
		{"no method", func(d *doc) { delete(d.serialization(), "method") }, oms.Malformed},
		{"another method", func(d *doc) { d.serialization()["method"] = "dfs" }, oms.Unsupported},
		{"no hash type", func(d *doc) { delete(d.serialization(), "hash_type") }, oms.Unsupported},
		{"hash type blake2b", func(d *doc) { d.serialization()["hash_type"] = "blake2b" }, oms.Unsupported},
		{"hash type blake3", func(d *doc) { d.serialization()["hash_type"] = "blake3" }, oms.Unsupported},
		{"symlinks unsaid", func(d *doc) { delete(d.serialization(), "allow_symlinks") }, oms.Malformed},
		{"a shard size for whole files", func(d *doc) { d.serialization()["shard_size"] = 5 }, oms.Malformed},
		{"no resources", func(d *doc) { delete(d.predicate(), "resources") }, oms.Malformed},
		{"empty resources", func(d *doc) { d.setResources([]any{}) }, oms.Malformed},
		{"a resource twice", func(d *doc) { d.setResources(append(d.resources(), d.resource(0))) }, oms.Malformed},
		{"a resource without name", func(d *doc) { delete(d.resource(0), "name") }, oms.Malformed},
		{"a resource whose name is empty", func(d *doc) { d.resource(0)["name"] = "" }, oms.Malformed},
		{"a resource without digest", func(d *doc) { delete(d.resource(0), "digest") }, oms.Malformed},
		{"a resource without algorithm", func(d *doc) { delete(d.resource(0), "algorithm") }, oms.Malformed},
		{"a resource's algorithm is not the hash type", func(d *doc) { d.resource(0)["algorithm"] = "blake2b" }, oms.Malformed},
		{"three algorithms", func(d *doc) {
			d.setResources(append(d.resources(), map[string]any{"name": "z", "digest": strings.Repeat("0", 64), "algorithm": "c"}))
			d.resource(1)["algorithm"] = "b"
		}, oms.Malformed},
		{"a shard's label on a whole file", func(d *doc) { d.resource(0)["algorithm"] = "sha256-sharded-400" }, oms.Malformed},
		{"a digest in capitals", func(d *doc) { r := d.resource(0); r["digest"] = strings.ToUpper(r["digest"].(string)) }, oms.Malformed},
		{"a short digest", func(d *doc) { d.resource(0)["digest"] = "00" }, oms.Malformed},
		{"a long digest", func(d *doc) { d.resource(0)["digest"] = strings.Repeat("0", 128) }, oms.Malformed},
		{"a digest that is not hex", func(d *doc) { d.resource(0)["digest"] = strings.Repeat("x", 64) }, oms.Malformed},
		{"a digest with a map", func(d *doc) { d.resource(0)["digest"] = map[string]any{"sha256": strings.Repeat("0", 64)} }, oms.Malformed},
	} {
		b.refuse(b.changed(good, c.name, c.change, nil), "verify", c.want)
	}
	many := b.changed(good, "more ignored paths than a statement may have", func(d *doc) {
		d.serialization()["ignore_paths"] = bytesOfPaths(5000)
	}, nil)
	b.refuse(many, "verify", oms.TooLarge)
}

func bytesOfPaths(n int) []string { return strings.Split(strings.Repeat("x,", n-1)+"x", ",") }

func paths(b *builder) {
	good := b.signed("good", simple(), withoutLeftOut())
	for _, c := range []struct{ name, path string }{
		{"goes up", "../evil"},
		{"goes up from below", "a/../../evil"},
		{"goes up and comes back", "a/../weights-1"},
		{"is up", ".."},
		{"is the folder", "."},
		{"is absolute", "/etc/passwd"},
		{"has an empty element", "a//b"},
		{"has a dot element", "a/./b"},
		{"begins with a dot element", "./weights-1"},
		{"ends with a slash", "a/"},
		{"has a backslash", `a\b`},
		{"goes up with backslashes", `..\evil`},
		{"has a drive", `C:\evil`},
		{"has a NUL", "a\x00b"},
	} {
		b.refuse(b.changed(good, "a name that "+c.name, func(d *doc) { d.resource(0)["name"] = c.path }, nil), "verify", oms.Irregular)
		if c.path != "a\x00b" {
			b.refuse(b.changed(good, "an ignored path that "+c.name, func(d *doc) { d.serialization()["ignore_paths"] = []any{c.path} }, nil), "verify", oms.Irregular)
		}
	}
	for _, pattern := range []string{"*", "*.bin", "a?", "[a]"} {
		b.refuse(b.changed(good, "an ignored path that is a pattern "+pattern, func(d *doc) { d.serialization()["ignore_paths"] = []any{pattern} }, nil), "verify", oms.Irregular)
	}
	b.refuse(b.changed(good, "a file that is also a folder", func(d *doc) { d.resource(1)["name"] = "weights-1/x" }, nil), "verify", oms.Malformed)
	b.refuse(b.changed(good, "a file that is also ignored", func(d *doc) { d.serialization()["ignore_paths"] = []any{"weights-1"} }, nil), "verify", oms.Malformed)
	below := b.signed("good", []file{text("a/b", "x")}, oms.Options{})
	b.refuse(b.changed(below, "a file below an ignored folder", func(d *doc) { d.serialization()["ignore_paths"] = []any{"a"} }, nil), "verify", oms.Malformed)
}

func shards(b *builder) {
	big := strings.Repeat("0123456789", 100)
	good := b.signed("good", []file{text("a.b", "two"), text("w", big)}, oms.Options{Method: oms.Shards, ShardSize: 400})
	b.add(b.changed(good, "signed again", nil, nil))
	// The resources are a.b:0:3, w:0:400, w:400:800, w:800:1000.
	name := func(i int, s string) func(*doc) { return func(d *doc) { d.resource(i)["name"] = s } }
	size := func(v any) func(*doc) { return func(d *doc) { d.serialization()["shard_size"] = v } }
	for _, c := range []struct {
		name   string
		change func(*doc)
		want   oms.Class
	}{
		{"no shard size", func(d *doc) { delete(d.serialization(), "shard_size") }, oms.Malformed},
		{"shard size zero", size(0), oms.Malformed},
		{"a negative shard size", size(-400), oms.Malformed},
		{"a shard size with a fraction", size(400.5), oms.Malformed},
		{"a shard size beyond any file", size(json.Number("1e300")), oms.Malformed},
		{"a shard size in text", size("400"), oms.Malformed},
		{"another shard size", size(500), oms.Uncovered},
		{"a name without a range", name(0, "a.b"), oms.Malformed},
		{"a name with half a range", name(0, "a.b:3"), oms.Malformed},
		{"a range with a sign", name(0, "a.b:+0:3"), oms.Malformed},
		{"a range with a zero before it", name(0, "a.b:0:03"), oms.Malformed},
		{"a range that is not decimal", name(0, "a.b:0:0x3"), oms.Malformed},
		{"a range beyond 64 bits", name(0, "a.b:0:99999999999999999999"), oms.Malformed},
		{"a range without a name", name(0, ":0:3"), oms.Irregular},
		{"a range that goes up", name(0, "../a.b:0:3"), oms.Irregular},
		{"a file that does not begin at 0", name(0, "a.b:1:3"), oms.Uncovered},
		{"an empty range", name(0, "a.b:0:0"), oms.Uncovered},
		{"a range that ends before it begins", name(3, "w:800:700"), oms.Uncovered},
		{"a range longer than a shard", name(0, "a.b:0:401"), oms.Uncovered},
		{"a shorter shard in the middle", name(2, "w:400:700"), oms.Uncovered},
		{"a gap", func(d *doc) { r := d.resources(); d.setResources(append(r[:2:2], r[3])) }, oms.Uncovered},
		{"the beginning missing", func(d *doc) { r := d.resources(); d.setResources([]any{r[0], r[2], r[3]}) }, oms.Uncovered},
		{"an overlap", func(d *doc) {
			d.setResources(append(d.resources(), map[string]any{"name": "a.b:2:3", "algorithm": "sha256", "digest": d.resource(0)["digest"]}))
		}, oms.Uncovered},
		{"a shard twice", func(d *doc) { d.setResources(append(d.resources(), d.resource(0))) }, oms.Uncovered},
		{"the label of another size", func(d *doc) { d.resource(0)["algorithm"] = "sha256-sharded-500" }, oms.Malformed},
		{"the hash type of another size", func(d *doc) { d.serialization()["hash_type"] = "sha256-sharded-500" }, oms.Unsupported},
	} {
		b.refuse(b.changed(good, c.name, c.change, nil), "verify", c.want)
	}
	// The end missing is no fault of the statement: it is found on the disk.
	b.refuse(b.changed(good, "the end missing", func(d *doc) { d.setResources(d.resources()[:3]) }, nil), "check", oms.Uncovered)
	b.refuse(b.changed(good, "a file missing", func(d *doc) { d.setResources(d.resources()[1:]) }, nil), "check", oms.Extra)
	v := b.changed(good, "an empty file that shards cannot sign", nil, nil)
	v.Model = append(v.Model, text("empty", ""))
	b.refuse(v, "check", oms.Extra)
	huge := b.changed(good, "the last shard longer than the file", name(3, "w:800:1001"), nil)
	b.refuse(huge, "check", oms.Changed)
}

// labels changes each resource's algorithm to what the reference writes.
func labels(d *doc) {
	for i := range d.resources() {
		d.resource(i)["algorithm"] = "sha256-sharded-400"
	}
}

func foreign(b *builder) {
	files := b.signed("good", simple(), withoutLeftOut())
	big := strings.Repeat("0123456789", 100)
	cut := b.signed("good", []file{text("a.b", "two"), text("w", big)}, oms.Options{Method: oms.Shards, ShardSize: 400})
	add := func(v vector, name string, change func(*doc), raw func([]byte) []byte) {
		b.add(b.changed(v, name, change, raw))
	}
	add(files, "no tlogEntries", func(d *doc) { delete(d.material(), "tlogEntries") }, nil)
	add(files, "tlogEntries and timestamps that are of no use here", func(d *doc) {
		d.material()["tlogEntries"] = []any{map[string]any{"logIndex": "1", "inclusionProof": map[string]any{"hashes": []any{"AA=="}}}}
		d.material()["timestampVerificationData"] = map[string]any{"rfc3161Timestamps": []any{}}
	}, nil)
	add(files, "no keyid", func(d *doc) { delete(d.signature(), "keyid") }, nil)
	add(files, "a keyid that is null", func(d *doc) { d.signature()["keyid"] = nil }, nil)
	add(files, "a keyid of another making", func(d *doc) { d.signature()["keyid"] = "whatever" }, nil)
	add(files, "another version of the media type", func(d *doc) { d.bundle["mediaType"] = "application/vnd.dev.sigstore.bundle+json;version=0.2" }, nil)
	add(files, "the subject has another name", func(d *doc) { d.subject()["name"] = "model" }, nil)
	add(files, "more in the subject", func(d *doc) { d.subject()["annotations"] = map[string]any{"a": 1} }, nil)
	add(files, "more in a resource", func(d *doc) {
		d.resource(0)["annotations"] = map[string]any{"a": []any{1, 2.5e-3, true, nil, "x"}}
		d.resource(1)["uri"] = "https://example.com"
	}, nil)
	add(files, "more in the public key", func(d *doc) { d.material()["publicKey"].(map[string]any)["note"] = "x" }, nil)
	add(files, "indented", nil, func(p []byte) []byte {
		var out bytes.Buffer
		must(b.t, json.Indent(&out, p, "", "  "))
		return out.Bytes()
	})
	add(files, "symlinks were allowed", func(d *doc) { d.serialization()["allow_symlinks"] = true }, nil)
	add(files, "only what the signer left out is recorded", func(d *doc) { d.serialization()["ignore_paths"] = []any{"left-out"} }, nil)
	git := b.signed("git's files are signed too", []file{text("model.bin", "x"), text("sub/.gitignore", "y")}, oms.Options{})
	git.Model[1].Path = ".gitignore"
	add(git, "git's files are signed", func(d *doc) {
		r := d.resources()
		r[1].(map[string]any)["name"] = ".gitignore"
		d.setResources([]any{r[1], r[0]})
		delete(d.serialization(), "ignore_paths")
	}, nil)
	add(cut, "shards with the reference's label", labels, nil)
	add(cut, "shards with the label as hash type, as the reference's first releases had it", func(d *doc) {
		labels(d)
		d.serialization()["hash_type"] = "sha256-sharded-400"
	}, nil)
	add(cut, "a shard size written by a protobuf Struct", nil, func(p []byte) []byte {
		return bytes.Replace(p, []byte(`"shard_size":400`), []byte(`"shard_size":400.0`), 1)
	})
	add(cut, "a shard size with an exponent", nil, func(p []byte) []byte {
		return bytes.Replace(p, []byte(`"shard_size":400`), []byte(`"shard_size":4e2`), 1)
	})
	sorted := b.signed("good", []file{text("w", "0123456789abcdef")}, oms.Options{Method: oms.Shards, ShardSize: 5})
	add(sorted, "shards in the order of their offsets, as the reference sorts", func(d *doc) {
		r := d.resources() // w:0:5, w:10:15, w:15:16, w:5:10
		d.setResources([]any{r[0], r[3], r[1], r[2]})
	}, nil)
	add(files, "resources in another order", func(d *doc) { r := d.resources(); d.setResources([]any{r[1], r[0]}) }, nil)
	for i := range b.Vectors { // where the order is another, so is the root digest
		b.Vectors[i].Root = rootOfVector(b.t, b.Vectors[i])
	}
}

func historical(b *builder) {
	leaf, root := named(b.t, "leaf", elliptic.P384()), named(b.t, "root", elliptic.P256())
	rootCert := issue(b.t, "root", root.Public(), nil, root, authority)
	leafCert := issue(b.t, "leaf", leaf.Public(), rootCert, root, nil)
	model := []file{text("weights-1", "the first\n"), text("weights-2", "the second")}
	byKey := b.signed("key", model, oms.Options{})
	byKey.Historical = true
	byCert := b.certified("certificate", leaf, rootCert, leafCert)
	byCert.Model, byCert.Historical = model, true

	before11 := func(d *doc) {
		d.material()["publicKey"] = map[string]any{"rawBytes": []byte(byKey.Key), "keyDetails": "PKIX_ECDSA_P256_SHA_256"}
		delete(d.material(), "tlogEntries")
		d.signature()["keyid"] = nil
		delete(d.serialization(), "ignore_paths")
	}
	b.add(b.changed(byKey, "v1.0: a public key given whole", before11, nil))
	strict := b.changed(byKey, "v1.0: a public key given whole, without reading old bundles", before11, nil)
	strict.Historical = false
	b.add(strict)
	b.add(b.changed(byKey, "v1.1: a hint, and the paths left out", func(d *doc) { d.serialization()["ignore_paths"] = []any{".git", "model.sig"} }, nil))

	one := b.signed("one file", []file{text("model.bin", "alone")}, oms.Options{})
	one.Only, one.Historical = "model.bin", true
	self := b.changed(one, "v1.0: a model of one file is called a dot", func(d *doc) { before11(d); d.resource(0)["name"] = "." }, nil)
	b.add(self)
	self.Name, self.Historical = self.Name+", without reading old bundles", false
	b.refuse(self, "verify", oms.Irregular)
	b.refuse(b.changed(byKey, "a file called a dot, and another", func(d *doc) { before11(d); d.resource(0)["name"] = "." }, nil), "verify", oms.Irregular)

	// old makes a statement of release 0.2 of the subjects, signed as it did.
	old := func(v vector, name string, k steady, encoding func([]byte) []byte, change func(*doc)) vector {
		v.Name = name
		v.Bundle = string(resign(b.t, []byte(v.Bundle), k, func(d *doc) {
			var subjects []any
			for i := range d.resources() {
				subjects = append(subjects, map[string]any{"name": d.resource(i)["name"], "digest": map[string]any{"sha256": d.resource(i)["digest"]},
					"annotations": map[string]any{"actual_hash_algorithm": "file-sha256"}})
			}
			d.statement["subject"], d.statement["predicateType"] = subjects, "https://model_signing/Digests/v0.1"
			d.statement["predicate"] = map[string]any{"unused": "Unused, just passed due to API requirements"}
			delete(d.material(), "tlogEntries")
			if change != nil {
				change(d)
			}
		}, nil, encoding))
		return v
	}
	second := func(d *doc) map[string]any { return d.statement["subject"].([]any)[1].(map[string]any) }
	b.add(old(byKey, "v0.2: files as subjects, by key", b.key, oldPAE, nil))
	b.add(old(byKey, "v0.2: files as subjects, in the encoding that came after", b.key, pae, nil))
	quoted := b.signed("quoted", []file{text("it's", "x"), text("über weights", "y")}, oms.Options{})
	quoted.Historical = true
	b.add(old(quoted, "v0.2: names that Python escapes", b.key, oldPAE, nil))
	p384 := old(byCert, "v0.2: files as subjects, by certificate on P-384", leaf, nil, nil)
	p384.Bundle = string(resignSHA256(b.t, []byte(p384.Bundle), leaf))
	b.add(p384)
	plain := old(byKey, "v0.2: files as subjects, without reading old bundles", b.key, pae, nil)
	plain.Historical = false
	b.refuse(plain, "verify", oms.Unsupported)
	plain = old(byKey, "v0.2: its encoding, without reading old bundles", b.key, oldPAE, nil)
	plain.Historical = false
	b.refuse(plain, "verify", oms.Signature)
	for _, c := range []struct {
		name   string
		change func(*doc)
		want   oms.Class
	}{
		{"v0.2: no subjects", func(d *doc) { d.statement["subject"] = []any{} }, oms.Malformed},
		{"v0.2: a name that goes up", func(d *doc) { second(d)["name"] = "../evil" }, oms.Irregular},
		{"v0.2: a digest of another algorithm", func(d *doc) { second(d)["digest"] = map[string]any{"sha512": "00"} }, oms.Malformed},
		{"v0.2: a file twice", func(d *doc) { d.statement["subject"] = []any{second(d), second(d)} }, oms.Malformed},
	} {
		b.refuse(old(byKey, c.name, b.key, oldPAE, c.change), "verify", c.want)
	}
	changed := old(byKey, "v0.2: a byte changed", b.key, oldPAE, nil)
	changed.Model = []file{model[0], text("weights-2", "the secOnd")}
	b.refuse(changed, "check", oms.Changed)
	more := old(byKey, "v0.2: a file more", b.key, oldPAE, nil)
	more.Model = append(more.Model, text("evil.py", "x"))
	b.refuse(more, "check", oms.Extra)
	for i := range b.Vectors {
		if b.Vectors[i].Want == "ok" {
			b.Vectors[i].Root = rootOfVector(b.t, b.Vectors[i])
		}
	}
}
