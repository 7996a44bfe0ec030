package oms

// PythonBytes is what releases before 1.0 signed: see historical.go.
var PythonBytes = pythonBytes
