# KMS keys for what signs online: the coordinator (directives and snapshots), the
# timestamp, the device CA if it is to be in KMS, and one key a publisher team. Root
# and policy keys are people's and are not made here.
#
# All are ECDSA P-256, the one curve that TUF, model signing, KMS and TPMs share.
#
# An alias stays with its key: whoever opened it refuses the signatures of another.
# A key is replaced by a further one beside it (var.additional), which root and
# policy then name: modelfleet key rotate ROLE --to awskms:///alias/....

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
  base = merge(
    { coordinator = var.coordinator_principals, timestamp = var.timestamp_principals },
    length(var.device_ca_principals) > 0 ? { "device-ca" = var.device_ca_principals } : {},
    { for team, principals in var.publishers : "publisher-${team}" => principals },
  )
  signers = merge(local.base, { for name, role in var.additional : name => local.base[role] })
}

resource "aws_kms_key" "this" {
  for_each                 = local.signers
  description              = "modelfleet ${var.fleet}: ${each.key}"
  key_usage                = "SIGN_VERIFY"
  customer_master_key_spec = "ECC_NIST_P256"
  deletion_window_in_days  = 30
  tags                     = merge(var.tags, { "modelfleet:fleet" = var.fleet, "modelfleet:role" = each.key })
  policy                   = data.aws_iam_policy_document.this[each.key].json
}

resource "aws_kms_alias" "this" {
  for_each      = local.signers
  name          = "alias/modelfleet/${var.fleet}/${each.key}"
  target_key_id = aws_kms_key.this[each.key].key_id
}

data "aws_iam_policy_document" "this" {
  for_each = local.signers

  statement {
    sid       = "Administer"
    actions   = ["kms:Describe*", "kms:Get*", "kms:List*", "kms:Put*", "kms:Update*", "kms:Enable*", "kms:Disable*", "kms:TagResource", "kms:UntagResource", "kms:ScheduleKeyDeletion", "kms:CancelKeyDeletion"]
    resources = ["*"]
    principals {
      type        = "AWS"
      identifiers = var.administrators
    }
  }

  # An administrator can not sign, and a signer can not administer.
  statement {
    sid       = "Sign"
    actions   = ["kms:Sign", "kms:GetPublicKey", "kms:DescribeKey"]
    resources = ["*"]
    principals {
      type        = "AWS"
      identifiers = each.value
    }
    condition {
      test     = "StringEqualsIfExists"
      variable = "kms:SigningAlgorithm"
      values   = ["ECDSA_SHA_256"]
    }
    condition {
      test     = "StringEqualsIfExists"
      variable = "kms:MessageType"
      values   = ["DIGEST"]
    }
  }
}
