package api

import (
	"context"
	"encoding/hex"
	"net/http"

	"github.com/modelfleet/modelfleet/pkg/trust"
)

// Time asks for the coordinator's signed time. It is worth something only once it
// was verified with the nonce that was drawn for it; see [trust.SignedTime].
func (c *Client) Time(ctx context.Context, n trust.Nonce) (trust.SignedTime, error) {
	return ask[trust.SignedTime](ctx, c, call{
		op: "ask for time", method: http.MethodGet, path: "/v1/time?nonce=" + hex.EncodeToString(n[:]), once: true,
	})
}
