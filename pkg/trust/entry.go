package trust

import (
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strconv"
	"time"

	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/oms"
)

// Entry is what a publisher signs about a release besides its bundles.
type Entry struct {
	Release   fleet.Release
	MinAgent  string             // lowest agent version that may run it, "" for any
	NotBefore time.Time          // not to be run earlier; zero for at once
	Metrics   map[string]float64 // evaluation results
	Card      fleet.Digest       // of the model card; zero when there is none
	Baseline  fleet.Digest       // of the input statistics drift is measured against
}

// custom is the custom data of a variant's TUF target. TUF's canonical JSON has
// no fractions and readers lose large integers, so numbers are text.
type custom struct {
	Root      fleet.Digest      `json:"root"`
	Size      string            `json:"size"`
	Counter   string            `json:"counter"`
	Classes   []string          `json:"classes,omitempty"`
	MinAgent  string            `json:"minAgent,omitempty"`
	NotBefore time.Time         `json:"notBefore,omitzero"`
	Metrics   map[string]string `json:"metrics,omitempty"`
	Card      fleet.Digest      `json:"card,omitzero"`
	Baseline  fleet.Digest      `json:"baseline,omitzero"`
}

// EncodeCustom is the custom data of one variant's target.
func (e Entry) EncodeCustom(v fleet.Variant) (json.RawMessage, error) {
	c := custom{
		Root: v.Root, Size: strconv.FormatInt(v.Size, 10), Counter: strconv.FormatUint(e.Release.Counter, 10),
		Classes: v.Classes, MinAgent: e.MinAgent, NotBefore: e.NotBefore, Card: e.Card, Baseline: e.Baseline,
	}
	for k, m := range e.Metrics {
		if math.IsNaN(m) || math.IsInf(m, 0) {
			return nil, fmt.Errorf("metric %q is not a number", k)
		}
		if c.Metrics == nil {
			c.Metrics = map[string]string{}
		}
		c.Metrics[k] = strconv.FormatFloat(m, 'g', -1, 64)
	}
	return json.Marshal(c)
}

// decodeEntry reads what the publisher says about the target at path.
func decodeEntry(path string, bundle fleet.Digest, raw json.RawMessage) (Entry, error) {
	var c custom
	r, name, err := ParseBundlePath(path)
	if err != nil {
		return Entry{}, err
	}
	if err := oms.DecodeStrict(raw, &c); err != nil {
		return Entry{}, fmt.Errorf("custom data of %s: %w", path, err)
	}
	v := fleet.Variant{Name: name, Classes: c.Classes, Root: c.Root, Bundle: bundle}
	if v.Size, err = strconv.ParseInt(c.Size, 10, 64); err != nil || v.Size <= 0 {
		return Entry{}, fmt.Errorf("size %q of %s", c.Size, path)
	}
	if r.Counter, err = strconv.ParseUint(c.Counter, 10, 64); err != nil || r.Counter == 0 {
		return Entry{}, fmt.Errorf("counter %q of %s", c.Counter, path)
	}
	if v.Root.IsZero() || v.Bundle.IsZero() {
		return Entry{}, fmt.Errorf("a digest of %s is missing", path)
	}
	r.Variants = []fleet.Variant{v}
	e := Entry{Release: r, MinAgent: c.MinAgent, NotBefore: c.NotBefore, Card: c.Card, Baseline: c.Baseline}
	for k, s := range c.Metrics {
		m, err := strconv.ParseFloat(s, 64)
		if err != nil {
			return Entry{}, fmt.Errorf("metric %q of %s: %w", k, path, err)
		}
		if e.Metrics == nil {
			e.Metrics = map[string]float64{}
		}
		e.Metrics[k] = m
	}
	return e, nil
}

// agrees reports why the directive's words about a variant are not the
// publisher's, or nil.
func (e Entry) agrees(r fleet.Release, v fleet.Variant) error {
	own := e.Release.Variants[0]
	switch {
	case own.Bundle != v.Bundle:
		return broken(RuleListed, "%s: the publisher lists bundle %s, the directive names %s", r.Ref(), own.Bundle.Short(), v.Bundle.Short())
	case own.Root != v.Root:
		return broken(RuleFacts, "%s: root digest %s, the publisher signed %s", r.Ref(), v.Root.Short(), own.Root.Short())
	case own.Size != v.Size:
		return broken(RuleFacts, "%s: size %d, the publisher signed %d", r.Ref(), v.Size, own.Size)
	case e.Release.Counter != r.Counter:
		return broken(RuleFacts, "%s: the directive names it with counter %d, its publisher signed %d: it was listed again, or somebody restates it; the coordinator's next directive names it anew", r.Ref(), r.Counter, e.Release.Counter)
	case !slices.Equal(own.Classes, v.Classes):
		return broken(RuleFacts, "%s: hardware classes %v, the publisher signed %v", r.Ref(), v.Classes, own.Classes)
	}
	return nil
}
