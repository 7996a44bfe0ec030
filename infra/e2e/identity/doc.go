// Package identity tries members' identities on a running fleet: a coordinator and
// agents with certificates that live for seconds, while device CAs are replaced,
// devices come back after their time, and copies of them turn up.
package identity
