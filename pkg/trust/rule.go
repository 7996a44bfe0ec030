package trust

import (
	"errors"
	"fmt"

	"github.com/modelfleet/modelfleet/pkg/fault"
)

// Rule names the check that refused something. Rules are part of messages,
// reports and the audit log.
type Rule string

// The rules, in the order in which [Verify] applies them.
const (
	RuleSize      Rule = "size"       // the pack is over a cap
	RuleFormat    Rule = "format"     // the pack, the directive or a file in it is not well-formed
	RuleRoot      Rule = "root"       // a root is not the pinned one's successor
	RuleState     Rule = "state"      // what this member stored does not verify
	RuleTimestamp Rule = "timestamp"  // the timestamp is not signed, or older than one seen
	RuleSnapshot  Rule = "snapshot"   // the snapshot is not the timestamp's, or older than one seen
	RulePolicy    Rule = "policy"     // the policy (targets) is not the snapshot's or not signed
	RuleFleet     Rule = "fleet-role" // the fleet role is not the snapshot's or not signed
	RulePublisher Rule = "publisher"  // a publisher role is not the snapshot's, not signed or not delegated
	RuleDirective Rule = "directive"  // the directive is not the one the fleet role lists
	RuleGroup     Rule = "group"      // the directive is for another group
	RuleSequence  Rule = "sequence"   // the directive is older than one seen, or another with the same number
	RulePath      Rule = "path"       // a role lists a path that is not delegated to it
	RuleListed    Rule = "listed"     // the publisher does not list the release
	RuleFacts     Rule = "facts"      // the directive says other facts than the publisher
	RuleFloor     Rule = "floor"      // the release's counter is below the publisher's floor
	RuleAgent     Rule = "min-agent"  // the release needs a newer agent
	RuleNotBefore Rule = "not-before" // the publisher does not allow the release yet
	RuleRevoked   Rule = "revoked"    // the policy revokes the release
	RuleExpired   Rule = "expired"    // a publisher role is past its expiry
	RuleKeyless   Rule = "keyless"    // nobody whom the policy names signed the release without a key
	RuleAudit     Rule = "audit"      // the directive is not in the audit log, or the log contradicts the one seen before
	RuleBundle    Rule = "bundle"     // the OMS bundle is not what the publisher lists
	RuleImmutable Rule = "immutable"  // a published release was changed, or its counter used again
	RuleOwner     Rule = "owner"      // another team owns the model's name
	RuleVersion   Rule = "version"    // metadata of an unexpected version
	RulePin       Rule = "pin"        // a root or token is not the pinned one
	RuleTime      Rule = "time"       // a time is not signed by the fleet role, or answers another question
)

// Violation is a broken rule; it is the cause inside a fault of kind Untrusted.
type Violation struct {
	Rule Rule
	Err  error
}

// Error is "rule RULE: cause".
func (v *Violation) Error() string { return fmt.Sprintf("rule %s: %v", v.Rule, v.Err) }

// Unwrap returns the cause.
func (v *Violation) Unwrap() error { return v.Err }

// RuleOf is the rule that err says was broken, or "".
func RuleOf(err error) Rule {
	if v, ok := errors.AsType[*Violation](err); ok {
		return v.Rule
	}
	return ""
}

// Violated returns a fault of kind Untrusted that names the rule. An error that
// names a rule already keeps it.
func Violated(rule Rule, op, subject string, cause error) *fault.Error {
	if r := RuleOf(cause); r != "" {
		return fault.New(fault.Untrusted, op, subject, cause).WithHint("%s", hint(r))
	}
	return fault.New(fault.Untrusted, op, subject, &Violation{rule, cause}).WithHint("%s", hint(rule))
}

func broken(rule Rule, format string, args ...any) error {
	return &Violation{rule, fmt.Errorf(format, args...)}
}

// hint is the next move for a person when a rule is broken.
func hint(r Rule) string {
	switch r {
	case RuleSize, RuleFormat:
		return "fetch the object again, or from another source; if it stays so, the bucket was tampered with"
	case RuleRoot, RulePin:
		return "check that this member belongs to this fleet; enrol it again with a fresh token if the root was replaced"
	case RuleTime:
		return "look for a proxy that changes answers, and check that the coordinator signs with the key the policy names"
	case RuleState:
		return "the stored trust state is damaged: enrol the member again"
	case RuleTimestamp, RuleSnapshot, RuleSequence, RuleVersion:
		return "an older or another state was offered than one seen before: look for who writes to the bucket, and let the coordinator publish anew"
	case RulePolicy, RuleFleet, RuleDirective, RuleGroup:
		return "check the keys the coordinator signs with against the policy, and let it publish anew"
	case RulePublisher:
		return "sign with the key that the policy delegates to the team, or have the keeper of the policy delegate the team to this one"
	case RuleAudit:
		return "look at both histories (modelfleet audit verify, modelfleet audit splits) and find who signed the other one; members go on once the policy lists another audit key: modelfleet key rotate audit"
	case RulePath, RuleOwner:
		return "publish under the team that owns the model"
	case RuleListed, RuleFloor:
		return "roll out a release that the publisher lists, or have the publisher list it"
	case RuleFacts, RuleBundle, RuleImmutable:
		return "publish the release again under a new version"
	case RuleAgent:
		return "update the agent, or roll out a release that allows it"
	case RuleNotBefore:
		return "wait, or have the publisher change the release's not-before"
	case RuleRevoked:
		return "roll out another release"
	case RuleExpired:
		return "have the team publish again, which signs its role anew"
	default:
		return "ask the operator"
	}
}
