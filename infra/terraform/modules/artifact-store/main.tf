# The bucket that a fleet's releases, TUF metadata and trust packs lie in.
#
# Everything in it authenticates itself, so the bucket is not trusted with
# integrity; what this module guards is availability and confidentiality:
# no public access, TLS only, encryption at rest, versions kept for a while,
# and three policies that give each party just what it needs.

terraform {
  required_version = ">= 1.7"
  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = ">= 5.80, < 7"
    }
  }
}

locals {
  arn = aws_s3_bucket.this.arn
  # Objects that are written once and never changed.
  immutable = ["${local.arn}/files/*", "${local.arn}/models/*", "${local.arn}/tuf/*", "${local.arn}/proposals/*"]
  # Objects that are replaced: guarded by conditional puts.
  replaced = ["${local.arn}/packs/*", "${local.arn}/tuf/timestamp.json"]
}

resource "aws_s3_bucket" "this" {
  bucket        = var.bucket
  force_destroy = var.force_destroy
  tags          = var.tags
}

resource "aws_s3_bucket_public_access_block" "this" {
  bucket                  = aws_s3_bucket.this.id
  block_public_acls       = true
  block_public_policy     = true
  ignore_public_acls      = true
  restrict_public_buckets = true
}

resource "aws_s3_bucket_ownership_controls" "this" {
  bucket = aws_s3_bucket.this.id
  rule { object_ownership = "BucketOwnerEnforced" }
}

resource "aws_s3_bucket_versioning" "this" {
  bucket = aws_s3_bucket.this.id
  versioning_configuration { status = "Enabled" }
}

resource "aws_s3_bucket_server_side_encryption_configuration" "this" {
  bucket = aws_s3_bucket.this.id
  rule {
    bucket_key_enabled = var.kms_key_arn != null
    apply_server_side_encryption_by_default {
      sse_algorithm     = var.kms_key_arn == null ? "AES256" : "aws:kms"
      kms_master_key_id = var.kms_key_arn
    }
  }
}

resource "aws_s3_bucket_lifecycle_configuration" "this" {
  bucket     = aws_s3_bucket.this.id
  depends_on = [aws_s3_bucket_versioning.this]

  rule {
    id     = "old-versions"
    status = "Enabled"
    filter {}
    noncurrent_version_expiration { noncurrent_days = var.keep_old_versions_days }
  }
  rule {
    id     = "unfinished-uploads"
    status = "Enabled"
    filter {}
    abort_incomplete_multipart_upload { days_after_initiation = 7 }
  }
}

data "aws_iam_policy_document" "bucket" {
  statement {
    sid       = "TLSOnly"
    effect    = "Deny"
    actions   = ["s3:*"]
    resources = [local.arn, "${local.arn}/*"]
    principals {
      type        = "*"
      identifiers = ["*"]
    }
    condition {
      test     = "Bool"
      variable = "aws:SecureTransport"
      values   = ["false"]
    }
  }
}

resource "aws_s3_bucket_policy" "this" {
  bucket = aws_s3_bucket.this.id
  policy = data.aws_iam_policy_document.bucket.json
}

# A publisher adds releases; it cannot touch packs or the timestamp.
data "aws_iam_policy_document" "publisher" {
  statement {
    sid       = "Add"
    actions   = ["s3:PutObject", "s3:GetObject"]
    resources = local.immutable
  }
  # An upload that was cut is resumed, or taken back.
  statement {
    sid       = "Resume"
    actions   = ["s3:ListMultipartUploadParts", "s3:AbortMultipartUpload"]
    resources = local.immutable
  }
  statement {
    sid       = "NotTheTimestamp"
    effect    = "Deny"
    actions   = ["s3:PutObject"]
    resources = local.replaced
  }
  statement {
    sid       = "List"
    actions   = ["s3:ListBucket", "s3:ListBucketMultipartUploads"]
    resources = [local.arn]
  }
}

# The coordinator writes metadata, packs and the audit log, reads releases to admit
# them, and takes away what nobody needs any more: partial tiles, proofs of directives
# that were replaced, and proposals that were decided.
data "aws_iam_policy_document" "coordinator" {
  statement {
    sid       = "Metadata"
    actions   = ["s3:PutObject"]
    resources = ["${local.arn}/tuf/*", "${local.arn}/packs/*", "${local.arn}/audit/*"]
  }
  statement {
    sid       = "Tidy"
    actions   = ["s3:DeleteObject"]
    resources = ["${local.arn}/audit/tile/*", "${local.arn}/audit/proof/*", "${local.arn}/proposals/*"]
  }
  statement {
    sid       = "Read"
    actions   = ["s3:GetObject"]
    resources = ["${local.arn}/*"]
  }
  statement {
    sid       = "List"
    actions   = ["s3:ListBucket"]
    resources = [local.arn]
  }
}

# Members read. ListBucket is left out on purpose: a missing key answers 403,
# which every reader of modelfleet takes for "not there".
data "aws_iam_policy_document" "member" {
  statement {
    sid       = "Read"
    actions   = ["s3:GetObject"]
    resources = ["${local.arn}/files/*", "${local.arn}/models/*", "${local.arn}/packs/*"]
  }
}

resource "aws_iam_policy" "this" {
  for_each = {
    publisher   = data.aws_iam_policy_document.publisher.json
    coordinator = data.aws_iam_policy_document.coordinator.json
    member      = data.aws_iam_policy_document.member.json
  }
  name   = "${var.bucket}-${each.key}"
  policy = each.value
  tags   = var.tags
}
