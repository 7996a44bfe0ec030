// Package uplink is the device's way to its coordinator: it enrols the device,
// renews its certificate in time, waits for new trust packs and hands over rows.
// Who the device is, and by which key, is package identity's.
//
// A coordinator that is away changes nothing but that calls fail: every loop here
// goes on with full jitter until its context ends.
package uplink
