variable "fleet" {
  description = "Name of the fleet."
  type        = string
  validation {
    condition     = can(regex("^[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?$", var.fleet))
    error_message = "A fleet name has 1 to 63 characters of a-z 0-9 . _ - and begins and ends with a letter or digit."
  }
}

variable "administrators" {
  description = "ARNs that manage the keys but can not sign with them."
  type        = list(string)
  validation {
    condition     = length(var.administrators) > 0
    error_message = "Name at least one administrator: a key nobody administers can never be changed."
  }
}

variable "coordinator_principals" {
  description = "ARNs that sign directives and snapshots: the coordinator's role."
  type        = list(string)
}

variable "timestamp_principals" {
  description = "ARNs that sign the timestamp: the coordinator's role, or the heartbeat function's."
  type        = list(string)
}

variable "publishers" {
  description = "Publisher teams: name to the ARNs that sign releases for it."
  type        = map(list(string))
  default     = {}
}

variable "device_ca_principals" {
  description = "ARNs that sign members' certificates: the coordinator's role. Empty: the device CA's key is a file."
  type        = list(string)
  default     = []
}

variable "additional" {
  description = "Further keys while one is replaced: name to the role whose principals sign with it, for example { coordinator-2 = \"coordinator\" }."
  type        = map(string)
  default     = {}
  validation {
    condition     = alltrue([for name in keys(var.additional) : can(regex("^[a-zA-Z0-9/_-]+$", name))])
    error_message = "A name is part of a KMS alias: a-z A-Z 0-9 / _ and -."
  }
}

variable "tags" {
  description = "Tags of every resource."
  type        = map(string)
  default     = {}
}
