# Run by `make infra-test`; the provider is mocked, nothing is created.

mock_provider "aws" {
  mock_resource "aws_kms_key" {
    defaults = {
      arn    = "arn:aws:kms:eu-west-1:123456789012:key/00000000-0000-0000-0000-000000000000"
      key_id = "00000000-0000-0000-0000-000000000000"
    }
  }
  mock_resource "aws_iam_role" {
    defaults = { arn = "arn:aws:iam::123456789012:role/modelfleet-factory-heartbeat" }
  }
  mock_resource "aws_lambda_function" {
    defaults = { arn = "arn:aws:lambda:eu-west-1:123456789012:function:modelfleet-factory-heartbeat" }
  }
  mock_resource "aws_cloudwatch_log_group" {
    defaults = { arn = "arn:aws:logs:eu-west-1:123456789012:log-group:heartbeat" }
  }
  mock_resource "aws_cloudwatch_event_rule" {
    defaults = { arn = "arn:aws:events:eu-west-1:123456789012:rule/heartbeat" }
  }
  mock_data "aws_iam_policy_document" {
    defaults = { json = "{\"Version\":\"2012-10-17\",\"Statement\":[]}" }
  }
}

variables {
  fleet          = "factory"
  bucket_arn     = "arn:aws:s3:::acme-models"
  prefix         = "fleets/factory"
  account        = "123456789012"
  root_sha256    = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
  zip            = "main.tf" # any file: it is only hashed
  administrators = ["arn:aws:iam::123456789012:role/admin"]
}

run "least_privilege" {
  command = apply

  assert {
    condition = toset(flatten([for s in data.aws_iam_policy_document.role.statement : s.resources if contains(s.actions, "s3:PutObject")])) == toset([
      "arn:aws:s3:::acme-models/fleets/factory/tuf/timestamp.json", "arn:aws:s3:::acme-models/fleets/factory/packs/*",
    ])
    error_message = "it replaces the timestamp and the packs, and writes nothing else"
  }
  assert {
    condition     = alltrue([for s in data.aws_iam_policy_document.role.statement : !contains(s.resources, "*") && !anytrue([for a in s.actions : strcontains(a, "*") || strcontains(a, "Delete")])])
    error_message = "no statement is about everything or allows everything, and nothing can be deleted"
  }
  assert {
    condition     = [for s in data.aws_iam_policy_document.role.statement : s.resources if s.sid == "Sign"][0] == toset([aws_kms_key.this[0].arn])
    error_message = "it signs with its own key alone"
  }
  assert {
    condition     = alltrue([for s in data.aws_iam_policy_document.key[0].statement : !contains(s.actions, "kms:Sign") if s.sid == "Administer"])
    error_message = "an administrator of the key must not be able to sign"
  }
}

run "woken_by_clock_and_bucket" {
  command = apply

  assert {
    condition     = aws_cloudwatch_event_rule.this.schedule_expression == "rate(6 hours)"
    error_message = "four looks within a timestamp's life"
  }
  assert {
    condition     = aws_s3_bucket_notification.this[0].lambda_function[0].filter_prefix == "fleets/factory/tuf/" && aws_s3_bucket_notification.this[0].lambda_function[0].filter_suffix == ".snapshot.json"
    error_message = "only snapshots wake it: its own writes must not"
  }
  assert {
    condition     = aws_lambda_permission.bucket.source_account == "123456789012" && aws_lambda_permission.bucket.source_arn == "arn:aws:s3:::acme-models"
    error_message = "nobody else's bucket may wake it"
  }
  assert {
    condition     = aws_lambda_function.this.environment[0].variables.MODELFLEET_TIMESTAMP_KEY == "awskms:///${aws_kms_key.this[0].arn}" && aws_lambda_function.this.environment[0].variables.MODELFLEET_BUCKET == "acme-models"
    error_message = "it is told its bucket and key"
  }
  assert {
    condition     = aws_kms_key.this[0].customer_master_key_spec == "ECC_NIST_P256"
    error_message = "the key signs with ECDSA P-256"
  }
}

run "a_key_made_elsewhere" {
  command = apply
  variables {
    timestamp_key_arn = "arn:aws:kms:eu-west-1:123456789012:key/11111111-1111-1111-1111-111111111111"
    administrators    = []
    notify            = false
  }

  assert {
    condition     = length(aws_kms_key.this) == 0 && output.key_reference == "awskms:///arn:aws:kms:eu-west-1:123456789012:key/11111111-1111-1111-1111-111111111111"
    error_message = "no second key is made"
  }
  assert {
    condition     = length(aws_s3_bucket_notification.this) == 0
    error_message = "the bucket's notifications can be somebody else's"
  }
}

run "somebody_administers" {
  command = plan
  variables { administrators = [] }
  expect_failures = [aws_kms_key.this]
}

run "a_root_is_pinned" {
  command = plan
  variables { root_sha256 = "latest" }
  expect_failures = [var.root_sha256]
}
