# A fleet's bucket and keys in one account.

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

output "init" {
  description = "How to begin."
  value       = "modelfleet init --name factory --bucket ${module.store.bucket} --region ${var.region}"
}
