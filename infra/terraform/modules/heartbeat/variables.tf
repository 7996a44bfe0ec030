variable "fleet" {
  description = "Name of the fleet."
  type        = string
  validation {
    condition     = can(regex("^[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?$", var.fleet)) && length(var.fleet) <= 42
    error_message = "A fleet name has 1 to 42 characters (a function's name has at most 64) of a-z 0-9 . _ - and begins and ends with a letter or digit."
  }
}

variable "bucket_arn" {
  description = "ARN of the fleet's bucket: module artifact-store."
  type        = string
  validation {
    condition     = can(regex("^arn:[a-z-]+:s3:::[a-z0-9.-]+$", var.bucket_arn))
    error_message = "Give the ARN of a bucket, for example arn:aws:s3:::acme-models."
  }
}

variable "prefix" {
  description = "Prefix of all keys of the fleet in the bucket, as in fleet.json."
  type        = string
  default     = ""
}

variable "account" {
  description = "Account that owns the bucket: nobody else's bucket may wake the function."
  type        = string
}

variable "root_sha256" {
  description = "SHA-256, in hex, of the root.json that members pin: \"root\" in fleet.json."
  type        = string
  validation {
    condition     = can(regex("^[0-9a-f]{64}$", var.root_sha256))
    error_message = "Give the 64 hex digits of \"root\" in fleet.json."
  }
}

variable "zip" {
  description = "The function: a zip with the linux/arm64 program functions/heartbeat as bootstrap."
  type        = string
}

variable "timestamp_key_arn" {
  description = "KMS key that signs the timestamp (module signing-keys: arns.timestamp); null makes one."
  type        = string
  default     = null
}

variable "administrators" {
  description = "ARNs that manage the key that is made, but can not sign with it."
  type        = list(string)
  default     = []
}

variable "schedule" {
  description = "When to look; the timestamp is signed when it has lived two fifths of its life."
  type        = string
  default     = "rate(6 hours)"
}

variable "timestamp_lifetime" {
  description = "How long members act on what they know when nothing newer comes. At least three times the schedule's period."
  type        = string
  default     = "24h"
}

variable "notify" {
  description = "Have the bucket wake the function for each new snapshot. Needed when the coordinator has no timestamp key."
  type        = bool
  default     = true
}

variable "reserved_concurrency" {
  description = "How many may run at once; -1: as the account allows."
  type        = number
  default     = 2
}

variable "alarm_actions" {
  description = "ARNs that are told when the heartbeat fails."
  type        = list(string)
  default     = []
}

variable "tags" {
  description = "Tags of every resource."
  type        = map(string)
  default     = {}
}
