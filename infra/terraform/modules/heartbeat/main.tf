# The heartbeat: a Lambda function that signs a fleet's TUF timestamp on a schedule
# and after each new snapshot, with a key of its own, so that a coordinator that is
# down does not make the fleet stale.
#
# Its role may read metadata, replace the timestamp and the packs, and sign with the
# one key. It can not write anything that says what runs, nor read models.

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
  name   = "modelfleet-${var.fleet}-heartbeat"
  prefix = var.prefix == "" ? "" : "${trim(var.prefix, "/")}/"
  own    = "${var.bucket_arn}/${local.prefix}"
  bucket = element(split(":::", var.bucket_arn), 1)
  key    = var.timestamp_key_arn == null ? aws_kms_key.this[0].arn : var.timestamp_key_arn
}

data "aws_iam_policy_document" "assume" {
  statement {
    actions = ["sts:AssumeRole"]
    principals {
      type        = "Service"
      identifiers = ["lambda.amazonaws.com"]
    }
  }
}

resource "aws_iam_role" "this" {
  name               = local.name
  assume_role_policy = data.aws_iam_policy_document.assume.json
  tags               = var.tags
}

data "aws_iam_policy_document" "role" {
  statement {
    sid       = "ReadMetadata"
    actions   = ["s3:GetObject"]
    resources = ["${local.own}tuf/*", "${local.own}packs/*", "${local.own}audit/proof/*"]
  }
  # Conditional puts: If-Match guards against a coordinator that writes too.
  statement {
    sid       = "ReplaceTimestampAndPacks"
    actions   = ["s3:PutObject"]
    resources = ["${local.own}tuf/timestamp.json", "${local.own}packs/*"]
  }
  # Without it S3 answers 403 for a key that is not there, and a role that lacks a
  # right could not be told from a version that does not exist yet.
  statement {
    sid       = "TellAbsent"
    actions   = ["s3:ListBucket"]
    resources = [var.bucket_arn]
  }
  statement {
    sid       = "Sign"
    actions   = ["kms:Sign", "kms:GetPublicKey", "kms:DescribeKey"]
    resources = [local.key]
  }
  statement {
    sid       = "Log"
    actions   = ["logs:CreateLogStream", "logs:PutLogEvents"]
    resources = ["${aws_cloudwatch_log_group.this.arn}:*"]
  }
}

resource "aws_iam_role_policy" "this" {
  name   = "heartbeat"
  role   = aws_iam_role.this.id
  policy = data.aws_iam_policy_document.role.json
}

# The key, unless one was made elsewhere (module signing-keys).
data "aws_iam_policy_document" "key" {
  count = var.timestamp_key_arn == null ? 1 : 0

  statement {
    sid       = "Administer"
    actions   = ["kms:Describe*", "kms:Get*", "kms:List*", "kms:Put*", "kms:Update*", "kms:Enable*", "kms:Disable*", "kms:TagResource", "kms:UntagResource", "kms:ScheduleKeyDeletion", "kms:CancelKeyDeletion"]
    resources = ["*"]
    principals {
      type        = "AWS"
      identifiers = var.administrators
    }
  }
  statement {
    sid       = "Sign"
    actions   = ["kms:Sign", "kms:GetPublicKey", "kms:DescribeKey"]
    resources = ["*"]
    principals {
      type        = "AWS"
      identifiers = [aws_iam_role.this.arn]
    }
    condition {
      test     = "StringEqualsIfExists"
      variable = "kms:SigningAlgorithm"
      values   = ["ECDSA_SHA_256"]
    }
  }
}

resource "aws_kms_key" "this" {
  count                    = var.timestamp_key_arn == null ? 1 : 0
  description              = "modelfleet ${var.fleet}: heartbeat"
  key_usage                = "SIGN_VERIFY"
  customer_master_key_spec = "ECC_NIST_P256"
  deletion_window_in_days  = 30
  tags                     = merge(var.tags, { "modelfleet:fleet" = var.fleet, "modelfleet:role" = "heartbeat" })
  policy                   = data.aws_iam_policy_document.key[0].json

  lifecycle {
    precondition {
      condition     = length(var.administrators) > 0
      error_message = "Name at least one administrator of the key, or give timestamp_key_arn."
    }
  }
}

resource "aws_kms_alias" "this" {
  count         = var.timestamp_key_arn == null ? 1 : 0
  name          = "alias/modelfleet/${var.fleet}/heartbeat"
  target_key_id = aws_kms_key.this[0].key_id
}

resource "aws_cloudwatch_log_group" "this" {
  name              = "/aws/lambda/${local.name}"
  retention_in_days = 30
  tags              = var.tags
}

resource "aws_lambda_function" "this" {
  function_name    = local.name
  role             = aws_iam_role.this.arn
  filename         = var.zip
  source_code_hash = filebase64sha256(var.zip)
  handler          = "bootstrap"
  runtime          = "provided.al2023"
  architectures    = ["arm64"]
  memory_size      = 256
  timeout          = 30
  # Two at once cost one of them another look; more would only wait for each other.
  reserved_concurrent_executions = var.reserved_concurrency
  environment {
    variables = {
      MODELFLEET_BUCKET             = local.bucket
      MODELFLEET_PREFIX             = trim(var.prefix, "/")
      MODELFLEET_ROOT               = var.root_sha256
      MODELFLEET_TIMESTAMP_KEY      = "awskms:///${local.key}"
      MODELFLEET_TIMESTAMP_LIFETIME = var.timestamp_lifetime
    }
  }
  depends_on = [aws_cloudwatch_log_group.this, aws_iam_role_policy.this]
  tags       = var.tags
}

# By the clock.
resource "aws_cloudwatch_event_rule" "this" {
  name                = local.name
  description         = "modelfleet ${var.fleet}: keep the trust pack fresh"
  schedule_expression = var.schedule
  tags                = var.tags
}

resource "aws_cloudwatch_event_target" "this" {
  rule = aws_cloudwatch_event_rule.this.name
  arn  = aws_lambda_function.this.arn
}

resource "aws_lambda_permission" "schedule" {
  statement_id  = "schedule"
  action        = "lambda:InvokeFunction"
  function_name = aws_lambda_function.this.function_name
  principal     = "events.amazonaws.com"
  source_arn    = aws_cloudwatch_event_rule.this.arn
}

# By the bucket: each new snapshot. A bucket has one notification configuration, so
# whoever has one of their own sets notify to false and adds this function there.
resource "aws_lambda_permission" "bucket" {
  statement_id   = "bucket"
  action         = "lambda:InvokeFunction"
  function_name  = aws_lambda_function.this.function_name
  principal      = "s3.amazonaws.com"
  source_arn     = var.bucket_arn
  source_account = var.account
}

resource "aws_s3_bucket_notification" "this" {
  count  = var.notify ? 1 : 0
  bucket = local.bucket
  lambda_function {
    lambda_function_arn = aws_lambda_function.this.arn
    events              = ["s3:ObjectCreated:*"]
    filter_prefix       = "${local.prefix}tuf/"
    filter_suffix       = ".snapshot.json"
  }
  depends_on = [aws_lambda_permission.bucket]
}

# A heartbeat that fails is the first thing that makes a fleet stale.
resource "aws_cloudwatch_metric_alarm" "this" {
  alarm_name          = local.name
  alarm_description   = "The heartbeat of fleet ${var.fleet} fails: members become stale within the timestamp's lifetime."
  namespace           = "AWS/Lambda"
  metric_name         = "Errors"
  dimensions          = { FunctionName = aws_lambda_function.this.function_name }
  statistic           = "Sum"
  period              = 3600
  evaluation_periods  = 1
  threshold           = 1
  comparison_operator = "GreaterThanOrEqualToThreshold"
  treat_missing_data  = "notBreaching"
  alarm_actions       = var.alarm_actions
  tags                = var.tags
}
