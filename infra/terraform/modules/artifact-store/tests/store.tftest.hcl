# Run by `make infra-test`; the provider is mocked, nothing is created.

mock_provider "aws" {
  mock_resource "aws_s3_bucket" {
    defaults = { arn = "arn:aws:s3:::fleet-artifacts", id = "fleet-artifacts" }
  }
  mock_resource "aws_iam_policy" {
    defaults = { arn = "arn:aws:iam::123456789012:policy/mock" }
  }
  mock_data "aws_iam_policy_document" {
    defaults = { json = "{\"Version\":\"2012-10-17\",\"Statement\":[]}" }
  }
}

variables { bucket = "fleet-artifacts" }

run "closed_and_versioned" {
  command = apply

  assert {
    condition = alltrue([
      aws_s3_bucket_public_access_block.this.block_public_acls,
      aws_s3_bucket_public_access_block.this.block_public_policy,
      aws_s3_bucket_public_access_block.this.ignore_public_acls,
      aws_s3_bucket_public_access_block.this.restrict_public_buckets,
    ])
    error_message = "the bucket must be closed to the public"
  }
  assert {
    condition     = one(aws_s3_bucket_versioning.this.versioning_configuration).status == "Enabled"
    error_message = "versions must be kept"
  }
  assert {
    condition     = one(one(aws_s3_bucket_server_side_encryption_configuration.this.rule).apply_server_side_encryption_by_default).sse_algorithm == "AES256"
    error_message = "without a KMS key, S3's own encryption"
  }
  assert {
    condition     = !aws_s3_bucket.this.force_destroy
    error_message = "releases must not be destroyed by default"
  }
  assert {
    condition     = toset(keys(output.policy_arns)) == toset(["publisher", "coordinator", "member"])
    error_message = "one policy each for publisher, coordinator and member"
  }
}

run "least_privilege" {
  command = apply

  assert {
    condition     = alltrue([for s in data.aws_iam_policy_document.member.statement : toset(s.actions) == toset(["s3:GetObject"])])
    error_message = "members only read objects"
  }
  assert {
    condition = anytrue([for s in data.aws_iam_policy_document.publisher.statement :
    s.effect == "Deny" && contains(s.resources, "${aws_s3_bucket.this.arn}/packs/*")])
    error_message = "a publisher must not be able to replace a trust pack"
  }
  assert {
    condition     = anytrue([for s in data.aws_iam_policy_document.bucket.statement : s.effect == "Deny" && s.sid == "TLSOnly"])
    error_message = "plain HTTP must be refused"
  }
}

run "kms" {
  command = apply
  variables { kms_key_arn = "arn:aws:kms:eu-west-1:123456789012:key/00000000-0000-0000-0000-000000000000" }

  assert {
    condition     = one(one(aws_s3_bucket_server_side_encryption_configuration.this.rule).apply_server_side_encryption_by_default).sse_algorithm == "aws:kms"
    error_message = "with a KMS key, objects are encrypted by it"
  }
}

run "bad_name" {
  command = plan
  variables { bucket = "Not A Bucket" }
  expect_failures = [var.bucket]
}
