package trust

import "slices"

// ruleCodes is the number of each rule that can refuse a pack, by which members'
// rows name it. Only ever append.
func ruleCodes() []Rule {
	return []Rule{
		"", RuleSize, RuleFormat, RuleRoot, RuleState, RuleTimestamp, RuleSnapshot, RulePolicy, RuleFleet, RulePublisher,
		RuleDirective, RuleGroup, RuleSequence, RulePath, RuleAudit, RuleExpired, RuleVersion, RulePin,
	}
}

// Code is the rule's number on the wire, below 64; 0 for one that has none.
func (r Rule) Code() uint8 { return uint8(max(0, slices.Index(ruleCodes(), r))) }

// RuleOfCode is the rule with that number; "" for 0 and for one that a later
// version knows.
func RuleOfCode(code uint8) Rule {
	if codes := ruleCodes(); int(code) < len(codes) {
		return codes[code]
	}
	return ""
}

// Remedy is the next move for a person when the rule is broken.
func (r Rule) Remedy() string { return hint(r) }
