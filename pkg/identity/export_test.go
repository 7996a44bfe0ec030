package identity

// HardwareNamesUnder is [HardwareNames] of a machine whose files lie in a folder.
var HardwareNamesUnder = hardwareNames
