package api

import (
	"encoding/json"
	"os"

	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/strict"
)

// Context is what an operator's commands need to reach a coordinator: a file of
// mode 0600, since it holds the token.
type Context struct {
	Fleet string `json:"fleet"` // the fleet's name
	URL   string `json:"url"`
	Pin   string `json:"pin"`
	Token string `json:"token"`
}

// LoadContext reads a context file.
func LoadContext(path string) (Context, error) {
	var c Context
	b, err := os.ReadFile(path)
	if err != nil {
		kind := fault.Invalid
		if os.IsNotExist(err) {
			kind = fault.NotFound
		}
		return c, fault.New(kind, "read context", path, err).
			WithHint("the coordinator writes the first one into its data folder as admin.context.json")
	}
	if err := strict.Decode(b, &c); err != nil {
		return c, fault.New(fault.Invalid, "read context", path, err)
	}
	return c, nil
}

// Encode is the file's content.
func (c Context) Encode() ([]byte, error) {
	b, err := json.MarshalIndent(c, "", "  ")
	return append(b, '\n'), err
}

// Client is a client with the context's URL, pin and token.
func (c Context) Client() (*Client, error) {
	return NewClient(Options{URL: c.URL, Pin: c.Pin, Token: c.Token})
}

// FleetFileName is the file in a fleet's folder that says where the fleet lives.
const FleetFileName = "fleet.json"

// FleetFile says which fleet a folder is of. `modelfleet init` writes it beside
// device-ca.crt and keys/; commands and the coordinator read it.
type FleetFile struct {
	Name     string       `json:"name"`
	Bucket   string       `json:"bucket"`             // its name, or "dir:PATH" for a folder that is carried by hand
	Endpoint string       `json:"endpoint,omitempty"` // another S3 server than AWS
	Region   string       `json:"region,omitempty"`
	Prefix   string       `json:"prefix,omitempty"`
	Root     fleet.Digest `json:"rootDigest"` // SHA-256 of the first root.json: what members pin
	Keys     KeyRefs      `json:"keys,omitzero"`
}

// KeyRefs says where the coordinator's keys are that do not lie in the folder's
// keys: awskms:///... or the path of a file. While a key is replaced there are two:
// the one that root names is used.
type KeyRefs struct {
	Coordinator []string `json:"coordinator,omitempty"`
	Timestamp   []string `json:"timestamp,omitempty"` // "none": a heartbeat alone has it
	DeviceCA    []string `json:"deviceCA,omitempty"`
}

// LoadFleetFile reads a fleet's file.
func LoadFleetFile(path string) (FleetFile, error) {
	var f FleetFile
	b, err := os.ReadFile(path)
	if err != nil {
		kind := fault.Invalid
		if os.IsNotExist(err) {
			kind = fault.NotFound
		}
		return f, fault.New(kind, "read fleet file", path, err).WithHint("make a fleet with `modelfleet init`")
	}
	if err := strict.Decode(b, &f); err != nil {
		return f, fault.New(fault.Invalid, "read fleet file", path, err)
	}
	if f.Name == "" || f.Bucket == "" || f.Root.IsZero() {
		return f, fault.Newf(fault.Invalid, "read fleet file", path, "name, bucket and rootDigest are needed")
	}
	return f, nil
}

// Encode is the file's content.
func (f FleetFile) Encode() ([]byte, error) {
	b, err := json.MarshalIndent(f, "", "  ")
	return append(b, '\n'), err
}
