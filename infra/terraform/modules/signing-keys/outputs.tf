output "references" {
  description = "Role to key reference, as modelfleet's commands take it."
  value       = { for role, a in aws_kms_alias.this : role => "awskms:///${a.name}" }
}

output "arns" {
  description = "Role to key ARN."
  value       = { for role, k in aws_kms_key.this : role => k.arn }
}
