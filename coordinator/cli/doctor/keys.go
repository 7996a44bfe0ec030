package doctor

import (
	"context"
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/sigstore/sigstore/pkg/cryptoutils"

	"github.com/modelfleet/modelfleet/coordinator/health"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/trust/ledger"
	"github.com/modelfleet/modelfleet/pkg/trust/repository"
)

// keys looks at the key files of the folder: who may read them, and what they are
// still good for.
func (x *examination) keys(ctx context.Context) {
	dir := filepath.Join(x.Home.Dir, "keys")
	paths, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil {
		x.failed("keys", fault.New(fault.Invalid, "list keys", dir, err))
		return
	}
	roles := x.holders()
	if x.answers {
		if head, err := x.Client.AuditCheckpoint(ctx); err == nil { // else the check of the log says so
			x.logKey = strings.TrimSpace(head.Key)
		}
	}
	for _, path := range paths {
		if ext := filepath.Ext(path); ext == ".pem" || ext == ".key" {
			x.key(path, roles)
		}
	}
}

// holders is the roles that each key holds, by key id.
func (x *examination) holders() map[string][]string {
	if x.repo == nil {
		return nil
	}
	out := map[string][]string{}
	for _, s := range x.repo.Standings() {
		for _, id := range s.Keys {
			out[id] = append(out[id], health.Subject(s.Role))
		}
	}
	for rest := x.repo.DeviceCA(); ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return out
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			continue // the findings say so
		}
		if id, err := repository.KeyID(c.PublicKey); err == nil {
			out[id] = append(out[id], health.DeviceCA+" "+fleet.DigestOf(block.Bytes).Short())
		}
	}
}

// key looks at one key file.
func (x *examination) key(path string, roles map[string][]string) {
	name := "key " + filepath.Base(path)
	info, err := os.Stat(path)
	if err != nil {
		x.failed(name, fault.New(fault.Denied, "look at key", path, err))
		return
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		x.bad(name, fault.Denied, fmt.Sprintf("chmod 600 %s; if others are on this machine, replace the key: `modelfleet key rotate ROLE`", path), "mode %04o lets others read it", mode)
		return
	}
	if filepath.Ext(path) == ".key" {
		x.auditKey(name, path)
		return
	}
	id, sealed, err := keyIDOf(path)
	switch {
	case err != nil:
		x.failed(name, err)
		return
	case sealed:
		x.ok(name, "only its owner may read it, and it has a passphrase")
		return
	case roles == nil:
		x.ok(name, "only its owner may read it; what it is good for was not found out")
		return
	}
	switch held := roles[id]; {
	case len(held) == 0 && x.next(path, func(older string) bool {
		id, _, err := keyIDOf(older)
		return err == nil && len(roles[id]) > 0
	}):
		x.ok(name, "key %s is not in use yet: it holds its role once a change of keys is published", id[:12])
	case len(held) == 0:
		x.warn(name, "once nobody needs what it signed, delete it: shred -u "+path, "key %s holds no role any more: it was rotated out, or never delegated", id[:12])
	case slices.Contains(held, "root") && strings.HasPrefix(filepath.Base(path), "root"):
		x.warn(name, "take it offline, with a copy: nothing on this machine needs it", "key %s holds %s and lies on this machine", id[:12], strings.Join(held, " and "))
	default:
		x.ok(name, "key %s holds %s", id[:12], strings.Join(held, ", "))
	}
}

// auditKey looks at a key file of the audit log.
func (x *examination) auditKey(name, path string) {
	_, public, err := ledger.LoadKey(path, x.Home.Name)
	switch {
	case err != nil:
		x.failed(name, err)
	case x.repo == nil:
		x.ok(name, "only its owner may read it; what it is good for was not found out")
	case strings.TrimSpace(x.repo.AuditKey()) == strings.TrimSpace(public):
		x.ok(name, "it signs the audit log")
	case x.logKey == strings.TrimSpace(public):
		x.warn(name, "copy the new key's file into the keys folder of the coordinator's fleet folder", "the policy lists another key for the audit log, and the coordinator's log is still signed by this one")
	case x.next(path, func(older string) bool {
		_, has, err := ledger.LoadKey(older, x.Home.Name)
		return err == nil && strings.TrimSpace(has) == strings.TrimSpace(x.repo.AuditKey())
	}):
		x.ok(name, "not in use yet: it signs the audit log once a change of keys is published")
	default:
		x.warn(name, "once nobody checks what it signed, delete it: shred -u "+path, "the policy lists another key for the audit log: it was rotated out")
	}
}

// numbered is a key's file that `key rotate` made: NAME-2.pem follows NAME.pem.
var numbered = regexp.MustCompile(`^(.+)-([0-9]+)$`)

// next reports whether a key's file follows one that is in use.
func (x *examination) next(path string, inUse func(older string) bool) bool {
	ext := filepath.Ext(path)
	m := numbered.FindStringSubmatch(strings.TrimSuffix(path, ext))
	if m == nil {
		return false
	}
	n, err := strconv.Atoi(m[2])
	if err != nil {
		return false
	}
	for n--; n >= 2; n-- {
		if inUse(fmt.Sprintf("%s-%d%s", m[1], n, ext)) {
			return true
		}
	}
	return inUse(m[1] + ext)
}

// keyIDOf is the id of the key in a file; sealed when only a passphrase opens it.
func keyIDOf(path string) (id string, sealed bool, err error) {
	const op = "look at key"
	data, err := os.ReadFile(path)
	if err != nil {
		return "", false, fault.New(fault.Denied, op, path, err).WithHint("only its owner may read it: run this as its owner")
	}
	if strings.Contains(string(data), "ENCRYPTED") {
		return "", true, nil
	}
	key, err := cryptoutils.UnmarshalPEMToPrivateKey(data, cryptoutils.SkipPassword)
	if err != nil {
		return "", false, fault.New(fault.Invalid, op, path, err).WithHint("it is damaged, or no key: restore it from its copy")
	}
	s, ok := key.(crypto.Signer)
	if !ok {
		return "", false, fault.Newf(fault.Invalid, op, path, "a key of type %T", key)
	}
	if id, err = repository.KeyID(s.Public()); err != nil {
		return "", false, fault.New(fault.Invalid, op, path, err)
	}
	return id, false, nil
}
