# A fleet's bucket, keys and heartbeat in one account.

terraform {
  required_version = ">= 1.7"
  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = ">= 5.80, < 7"
    }
  }
}

provider "aws" { region = var.region }

variable "region" {
  description = "AWS region."
  type        = string
  default     = "eu-west-1"
}

variable "account_roles" {
  description = "ARNs of the roles that exist in the account."
  type        = object({ admin = string, coordinator = string, vision_ci = string })
}

variable "account" {
  description = "The account's number."
  type        = string
}

variable "root_sha256" {
  description = "\"root\" in the fleet.json that `modelfleet init` made; \"\" until then: the heartbeat comes after it."
  type        = string
  default     = ""
}

variable "heartbeat_zip" {
  description = "The zip that `make heartbeat` builds."
  type        = string
  default     = "../../../../out/heartbeat.zip"
}

module "store" {
  source = "../../modules/artifact-store"
  bucket = "acme-factory-models"
}

module "keys" {
  source                 = "../../modules/signing-keys"
  fleet                  = "factory"
  administrators         = [var.account_roles.admin]
  coordinator_principals = [var.account_roles.coordinator]
  timestamp_principals   = [var.account_roles.coordinator]
  publishers             = { vision = [var.account_roles.vision_ci] }
}

# Signs the timestamp too, with a key of its own: add it to the fleet with
# modelfleet key add timestamp REFERENCE.
module "heartbeat" {
  count          = var.root_sha256 == "" ? 0 : 1
  source         = "../../modules/heartbeat"
  fleet          = "factory"
  bucket_arn     = module.store.arn
  account        = var.account
  root_sha256    = var.root_sha256
  zip            = var.heartbeat_zip
  administrators = [var.account_roles.admin]
}

output "heartbeat_key" {
  description = "The heartbeat's key."
  value       = one(module.heartbeat[*].key_reference)
}

output "init" {
  description = "How to begin."
  value       = "modelfleet init --name factory --bucket ${module.store.bucket} --region ${var.region}"
}
