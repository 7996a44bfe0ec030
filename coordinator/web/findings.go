package web

import (
	"context"
	"html/template"
	"slices"
	"strings"

	"github.com/modelfleet/modelfleet/pkg/api"
)

// banner is the findings that every page shows: what runs out or is wrong, not
// mere advice. A coordinator that cannot tell says so where the page is about it.
func (s *site) banner(ctx context.Context, who visitor) []api.Finding {
	h, err := s.Source.Health(ctx, who.OperatorToken)
	if err != nil {
		return nil
	}
	return slices.DeleteFunc(slices.Clone(h.Findings), func(f api.Finding) bool { return f.Severity.Rank() < api.Notice.Rank() })
}

// findingTone is the colour of a severity.
func findingTone(s api.Severity) string {
	switch s {
	case api.Bad, api.Urgent:
		return "bad"
	case api.Warning:
		return "warn"
	}
	return "busy"
}

// coded sets what stands between back quotes as code, so that it can be copied.
func coded(text string) template.HTML {
	var b strings.Builder
	for i, part := range strings.Split(text, "`") {
		part = template.HTMLEscapeString(part)
		if i%2 == 1 {
			part = "<code>" + part + "</code>"
		}
		b.WriteString(part)
	}
	return template.HTML(b.String())
}
