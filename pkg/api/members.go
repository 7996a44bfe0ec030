package api

import (
	"context"
	"io"
	"net/http"
	"net/url"
	"time"

	"github.com/modelfleet/modelfleet/pkg/fleet"
)

// Enrol asks for an identity. It may be repeated with the same key: the token is
// used up only once.
func (c *Client) Enrol(ctx context.Context, r EnrolRequest) (EnrolReply, error) {
	return ask[EnrolReply](ctx, c, call{op: "enrol", subject: string(r.Member), method: http.MethodPost, path: "/v1/enrol", in: r})
}

// Renew asks for a fresh certificate.
func (c *Client) Renew(ctx context.Context, r RenewRequest) (RenewReply, error) {
	return ask[RenewReply](ctx, c, call{op: "renew certificate", method: http.MethodPost, path: "/v1/renew", in: r})
}

// Cell asks for the caller's gossip cell with its keys: after one was changed.
func (c *Client) Cell(ctx context.Context) (Cell, error) {
	return ask[Cell](ctx, c, call{op: "get cell", method: http.MethodGet, path: "/v1/cell"})
}

// GossipHeader tells the coordinator where others in the caller's cell reach it.
const GossipHeader = "Modelfleet-Gossip"

// SendRows hands over a batch of signed rows and windows. Rows are cumulative,
// so sending one twice does no harm. gossipAddr is the host:port where others
// in the caller's cell reach it, or "". A caller without a cell names it "-".
func (c *Client) SendRows(ctx context.Context, cell string, batch []byte, gossipAddr string) (RowsReply, error) {
	h := http.Header{"Content-Type": {"application/octet-stream"}}
	if gossipAddr != "" {
		h.Set(GossipHeader, gossipAddr)
	}
	return ask[RowsReply](ctx, c, call{
		op: "send rows", subject: cell, method: http.MethodPost,
		path: "/v1/cells/" + url.PathEscape(cell) + "/rows",
		body: batch, header: h,
	})
}

// PackReply is a trust pack, or the news that there is no newer one.
type PackReply struct {
	Pack        []byte // nil when NotModified
	ETag        string // to ask with next time
	NotModified bool
}

// Pack asks for the group's trust pack. With etag set it answers NotModified
// when nothing newer appears within wait (at most 50 s, in whole seconds), and
// at once when something does.
func (c *Client) Pack(ctx context.Context, g fleet.Group, etag string, wait time.Duration) (PackReply, error) {
	out := PackReply{ETag: etag}
	k := call{op: "get pack", subject: string(g), method: http.MethodGet, path: "/v1/packs/" + url.PathEscape(string(g)), timeout: callTimeout + wait}
	if etag != "" {
		k.header = http.Header{"If-None-Match": {etag}}
		if wait > 0 {
			k.path += "?wait=" + wait.String()
		}
	}
	err := c.repeat(ctx, k, func(resp *http.Response) error {
		if resp.StatusCode == http.StatusNotModified {
			out.NotModified = true
			return nil
		}
		b, err := io.ReadAll(io.LimitReader(resp.Body, MaxBody))
		if err == nil {
			out = PackReply{Pack: b, ETag: resp.Header.Get("ETag")}
		}
		return err
	})
	return out, err
}

// Presign asks for URLs to objects of the bucket, at most 256.
func (c *Client) Presign(ctx context.Context, keys []string) (PresignReply, error) {
	return ask[PresignReply](ctx, c, call{op: "presign objects", method: http.MethodPost, path: "/v1/objects", in: PresignRequest{Keys: keys}})
}

// PackURL asks for a URL of the pack in the bucket, to be kept for when the
// coordinator is away. Of a fleet whose bucket has no URLs the error is Invalid.
func (c *Client) PackURL(ctx context.Context, g fleet.Group) (PackURL, error) {
	return ask[PackURL](ctx, c, call{op: "get pack url", subject: string(g), method: http.MethodGet, path: "/v1/packs/" + url.PathEscape(string(g)) + "/url"})
}
