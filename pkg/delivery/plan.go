package delivery

// Kind is a kind of source, in the order of preference at equal price.
type Kind uint8

// The kinds of source.
const (
	Copy  Kind = iota // a file that is here already
	Delta             // the difference to a file that is here
	Peer              // a neighbour
	Full              // the compressed object
	Raw               // the plain object
)

// String is the kind's name.
func (k Kind) String() string {
	names := [...]string{"copy", "delta", "peer", "full", "raw"}
	if int(k) < len(names) {
		return names[k]
	}
	return "unknown"
}

// MarshalText is the kind's name.
func (k Kind) MarshalText() ([]byte, error) { return []byte(k.String()), nil }
