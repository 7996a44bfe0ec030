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
    error_message = "a reference names the alias"
  }
}

run "a_key_is_replaced_by_one_beside_it" {
  command = apply
  variables {
    additional           = { coordinator-2 = "coordinator" }
    device_ca_principals = ["arn:aws:iam::123456789012:role/coordinator"]
  }

  assert {
    condition     = toset(keys(aws_kms_key.this)) == toset(["coordinator", "coordinator-2", "timestamp", "device-ca", "publisher-vision"])
    error_message = "the old key stays until root names the new one"
  }
  assert {
    condition     = output.references["coordinator-2"] == "awskms:///alias/modelfleet/factory/coordinator-2"
    error_message = "the next key has a reference of its own"
  }
  assert {
    condition = alltrue([for d in [data.aws_iam_policy_document.this["coordinator-2"]] :
    anytrue([for s in d.statement : anytrue([for p in s.principals : contains(p.identifiers, "arn:aws:iam::123456789012:role/coordinator")]) if s.sid == "Sign"])])
    error_message = "the coordinator signs with its next key too"
  }
}

run "signers_sign_digests_with_p256_only" {
  command = apply

  assert {
    condition = alltrue(flatten([for d in data.aws_iam_policy_document.this : [for s in d.statement :
    toset(s.actions) == toset(["kms:Sign", "kms:GetPublicKey", "kms:DescribeKey"]) && length(s.condition) == 2 if s.sid == "Sign"]]))
    error_message = "a signer may sign digests by ECDSA_SHA_256, and read the public half"
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
