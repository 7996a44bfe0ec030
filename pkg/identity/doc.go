// Package identity is who a member is in its fleet: its key, the certificate that
// the coordinator gave it, and the client that shows it.
//
//	join token ─▶ Enrol ─▶ key.pem, identity.json ─▶ Load ─▶ Member ─▶ Renew, at two thirds of each life
//
// Devices and functions enrol alike. Trust is made both ways by the one token:
// the member checks the coordinator's TLS key and the root against it, the
// coordinator checks the secret. The private key is made where it is used and
// never leaves; renewal keeps it.
//
//	DIR/key.pem        the member's P-256 key, mode 0600
//	DIR/identity.json  an [Identity], mode 0600: facts, certificate, pin, cell
//
// An identity is on disk before it is used, and never without its key: a crash in
// between costs nothing but another call. Nothing here tries again by itself beyond
// what [api.Client] does, and nothing waits for a time: its callers do.
package identity
