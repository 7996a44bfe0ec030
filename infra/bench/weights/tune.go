package weights

import "context"

// Tune trains a base and one case of it, without the cache: for a model small
// enough to be trained while somebody watches.
func Tune(ctx context.Context, s Settings, name string) (base, tuned Model, err error) {
	quiet := func(string, ...any) {}
	if base, err = train(ctx, s, Base, nil, quiet); err != nil {
		return nil, nil, err
	}
	tuned, err = train(ctx, s, name, base, quiet)
	return base, tuned, err
}
