package analysis

// State is what an evaluation remembers for the next: the e-processes. It is
// JSON and survives restarts; the zero value is a rollout's beginning.
type State struct {
}

// Evaluate judges the evidence. Evidence that is not newer than what prev has
// seen changes nothing and gives the same verdict again.
func Evaluate(cfg Config, prev State, ev Evidence) (State, Verdict) {
	return prev, Verdict{}
}
