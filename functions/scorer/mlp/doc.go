// Package mlp loads and runs small multi-layer perceptrons from a release's
// folder. The scorer function, the demo's device application and its trainer
// share it, so that what was trained, tested and served is the same code.
//
// A release's folder holds
//
//	model.safetensors   weights, F32 only; read strictly ([ParseTensors])
//	config.json         which channels feed which input in which regime ([Config])
//	golden.json         inputs with the scores they must give ([Golden])
//
// [Open] reads the first two and gives a [Pipeline]; after that scoring
// allocates nothing. Sums are rounded to float32 after each product, so that a
// score has the same bits on every CPU.
package mlp
