package s3

import (
	"net/http"
	"sync/atomic"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/s3"
)

// answered is when a server said what time it was.
type answered struct{ date, asked time.Time }

// dated is a client that notes the Date of each answer.
type dated struct {
	s3.HTTPClient
	last *atomic.Pointer[answered]
}

// Do asks, and notes what time the server says it is.
func (d dated) Do(r *http.Request) (*http.Response, error) {
	asked := time.Now()
	resp, err := d.HTTPClient.Do(r)
	if err != nil || resp.StatusCode >= http.StatusInternalServerError { // a gateway's word, perhaps
		return resp, err
	}
	if date, bad := http.ParseTime(resp.Header.Get("Date")); bad == nil {
		d.last.Store(&answered{date, asked})
	}
	return resp, nil
}

// Time is [registry.Timed]'s: by the Date of the last answer, which is whole seconds
// and may have been written as early as the request went out. The machine's
// monotonic clock carries it on, so that setting the other one changes nothing.
func (s *Store) Time() (time.Time, bool) {
	last := s.clock.Load()
	if last == nil {
		return time.Time{}, false
	}
	return last.date.Add(time.Second + time.Since(last.asked)), true
}
