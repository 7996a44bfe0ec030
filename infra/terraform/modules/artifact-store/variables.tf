variable "bucket" {
  description = "Name of the bucket."
  type        = string
  validation {
    condition     = can(regex("^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$", var.bucket))
    error_message = "A bucket name has 3 to 63 characters of a-z 0-9 . - and begins and ends with a letter or digit."
  }
}

variable "kms_key_arn" {
  description = "KMS key that encrypts objects at rest; null uses S3's own keys."
  type        = string
  default     = null
}

variable "keep_old_versions_days" {
  description = "Days an overwritten or deleted object can still be brought back."
  type        = number
  default     = 30
  validation {
    condition     = var.keep_old_versions_days >= 1
    error_message = "Keep old versions for at least one day: they are the way back from a mistake."
  }
}

variable "force_destroy" {
  description = "Let terraform destroy delete a bucket that still holds releases."
  type        = bool
  default     = false
}

variable "tags" {
  description = "Tags of every resource."
  type        = map(string)
  default     = {}
}
