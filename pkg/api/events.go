package api

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/modelfleet/modelfleet/pkg/fault"
)

// maxEvent bounds one event of the stream.
const maxEvent = 1 << 20

// Events calls fn with each event of the fleet until fn returns an error, which
// it then returns, or ctx ends. Events are for people: a reader that is slow or
// away loses some, so decide on nothing by them.
func (c *Client) Events(ctx context.Context, fn func(Event) error) error {
	k := call{op: "read events", method: http.MethodGet, path: "/v1/events", once: true, timeout: -1,
		header: http.Header{"Accept": {"text/event-stream"}}}
	var stop error
	err := c.repeat(ctx, k, func(resp *http.Response) error {
		err := ReadEvents(resp.Body, func(e Event) error {
			stop = fn(e)
			return stop
		})
		if err == nil {
			err = io.ErrUnexpectedEOF // the stream has no end of its own
		}
		return err
	})
	if stop != nil {
		return stop
	}
	return err
}

// ReadEvents reads a text/event-stream of JSON events until it ends or fn
// returns an error.
func ReadEvents(r io.Reader, fn func(Event) error) error {
	lines := bufio.NewScanner(r)
	lines.Buffer(make([]byte, 0, 4096), maxEvent)
	var data strings.Builder
	for lines.Scan() {
		line := lines.Text()
		if v, ok := strings.CutPrefix(line, "data:"); ok {
			if data.Len() > 0 {
				data.WriteByte('\n')
			}
			if data.Len()+len(v) > maxEvent {
				return fault.Newf(fault.Invalid, "read events", "", "an event is larger than %d bytes", maxEvent)
			}
			data.WriteString(strings.TrimPrefix(v, " "))
			continue
		}
		if line != "" || data.Len() == 0 { // another field, a comment or a heartbeat
			continue
		}
		var e Event
		if err := json.Unmarshal([]byte(data.String()), &e); err != nil {
			return fault.New(fault.Invalid, "read events", "", err)
		}
		data.Reset()
		if err := fn(e); err != nil {
			return err
		}
	}
	if err := lines.Err(); err != nil {
		if errors.Is(err, bufio.ErrTooLong) {
			return fault.New(fault.Invalid, "read events", "", err)
		}
		return err
	}
	return nil
}

// WriteEvent writes one event in the form [ReadEvents] reads.
func WriteEvent(w io.Writer, e Event) error {
	b, err := json.Marshal(e)
	if err != nil {
		return err
	}
	if bytes.ContainsAny(b, "\r\n") {
		return fault.Newf(fault.Internal, "write event", e.Subject, "its JSON has a line break")
	}
	_, err = fmt.Fprintf(w, "event: %s\ndata: %s\n\n", e.Kind, b)
	return err
}
