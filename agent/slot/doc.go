// Package slot says which release of each model is current on a device.
//
//	DIR/MODEL/current   symbolic link to the release folder that applications open
//	DIR/MODEL/previous  symbolic link to the one before it, while that is kept
//
// [Slots.Switch] moves current by one atomic rename: an application that opens
// DIR/MODEL/current/weights.safetensors gets the old release or the new one,
// whole, and one that has the old file open or mapped keeps it. The one before
// stays, through a crash between any two steps, until [Slots.Forget].
package slot
