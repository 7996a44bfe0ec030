// Package uplink is the device's way to its coordinator: it enrols by a join
// token, keeps the identity that this gave, renews its certificate in time,
// waits for new trust packs and hands over rows.
//
// Trust is made both ways by the one token: the device checks the coordinator's
// TLS key and the root against it, the coordinator checks the secret. The
// private key is made on the device and never leaves it.
//
//	DIR/key.pem        the member's P-256 key, mode 0600
//	DIR/identity.json  what the enrolment gave: facts, certificate, pin, cell
//
// A coordinator that is away changes nothing but that calls fail: every loop here
// goes on with full jitter until its context ends.
package uplink
