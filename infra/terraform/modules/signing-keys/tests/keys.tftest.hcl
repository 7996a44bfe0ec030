# Run by `make infra-test`; the provider is mocked, nothing is created.

mock_provider "aws" {
  mock_resource "aws_kms_key" {
    defaults = {
      arn    = "arn:aws:kms:eu-west-1:123456789012:key/00000000-0000-0000-0000-000000000000"
      key_id = "00000000-0000-0000-0000-000000000000"
    }
  }
  mock_data "aws_iam_policy_document" {
    defaults = { json = "{\"Version\":\"2012-10-17\",\"Statement\":[]}" }
  }
}

variables {
  fleet                  = "factory"
  administrators         = ["arn:aws:iam::123456789012:role/admin"]
  coordinator_principals = ["arn:aws:iam::123456789012:role/coordinator"]
  timestamp_principals   = ["arn:aws:iam::123456789012:role/heartbeat"]
  publishers             = { vision = ["arn:aws:iam::123456789012:role/vision-ci"] }
}

run "p256_signing_keys" {
  command = apply

  assert {
    condition     = toset(keys(aws_kms_key.this)) == toset(["coordinator", "timestamp", "publisher-vision"])
    error_message = "one key for each online role"
  }
  assert {
    condition     = alltrue([for k in aws_kms_key.this : k.customer_master_key_spec == "ECC_NIST_P256" && k.key_usage == "SIGN_VERIFY"])
    error_message = "every key signs with ECDSA P-256"
  }
  assert {
    condition     = output.references["publisher-vision"] == "awskms:///alias/modelfleet/factory/publisher-vision"
    error_message = "a reference names the alias, so that a key can be rotated behind it"
  }
}

run "administrators_do_not_sign" {
  command = apply

  assert {
    condition = alltrue(flatten([for d in data.aws_iam_policy_document.this :
    [for s in d.statement : !contains(s.actions, "kms:Sign") if s.sid == "Administer"]]))
    error_message = "an administrator must not be able to sign"
  }
  assert {
    condition = alltrue([for d in [data.aws_iam_policy_document.this["publisher-vision"]] :
    anytrue([for s in d.statement : anytrue([for p in s.principals : contains(p.identifiers, "arn:aws:iam::123456789012:role/vision-ci")]) if s.sid == "Sign"])])
    error_message = "the team's role signs with the team's key"
  }
}

run "somebody_administers" {
  command = plan
  variables { administrators = [] }
  expect_failures = [var.administrators]
}
