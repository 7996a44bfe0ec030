// Package lambdamodel gives a Lambda function written in Go the model that its
// fleet says it should run, verified, and reports what the function observed.
//
//	func main() {
//		err := lambdamodel.Start(opts, open, handle) // opts from FromEnv
//		...
//	}
//
//	func open(r lambdamodel.Release) (*Detector, error) { return LoadDetector(r.Path) }
//
//	func handle(ctx context.Context, call *lambdamodel.Call[*Detector], in Request) (Reply, error) {
//		score := call.Model.Score(in)
//		call.Score(score) // what was predicted; optional
//		return Reply{score, call.Release.Ref}, nil
//	}
//
// Each execution environment is a member of its own, of kind function: it enrols
// at its first start with a join token of that kind, which must allow as many
// uses as there will be environments:
//
//	modelfleet token create --kind function --uses 100000 --ttl 8760h --label app=scorer
//
// The token pins the coordinator and the fleet's root; key, certificate, trust
// state and releases lie in /tmp/modelfleet, which an environment keeps through
// crashes and timeouts and loses at its end. DIR/MODEL/current is a link to the
// files in service.
//
// What it promises:
//
//   - A release is opened only after the trust pack was verified, and every byte
//     of the files against it, by the code the agent uses.
//   - Init takes at most InitBudget. What did not fit goes on during invocations.
//   - The directive is looked at again when Refresh has passed, while a handler
//     runs, never before it; a switch shows at the next invocation.
//   - A release that does not load here, crashes the function or fails too often
//     in a row is quarantined in this environment, the one before is served again,
//     and the failure is reported as the release's. One that the gates of a rollout
//     failed is refused too, until a rollout of it says that it may be tried again.
//   - Reports are the agent's signed cumulative rows. They are sent within
//     FlushBudget at the end of each of the first invocations, later beside a handler;
//     when the coordinator is slow or away they wait, and no invocation fails.
//   - Without coordinator or bucket the function serves what it has.
//   - The host's clock is taken to be right, since AWS keeps it. One that is ahead
//     makes what is believed stale too soon; one that is behind is caught by what was
//     signed, and by the coordinator's signed time, which is asked for when its answer
//     to a report is more than 5 minutes later. That ends what is believed, and has
//     the next invocation look for a newer pack; it never prolongs anything.
package lambdamodel
