/*
 * The guest of serial_byte for monitors that want a PVH note in an ELF file: one byte on COM1, then the end. The instructions
 * mean the same in 32-bit and in 64-bit mode.
 */
	.text
	.globl	_start
_start:
	mov	$0x3f8, %dx
	mov	$'.', %al
	out	%al, (%dx)
	mov	$0x600, %dx
	mov	$0x34, %al	/* alioth's sleep control register: ACPI, section 4.8.3.7, sleep type 5 */
	out	%al, (%dx)
	hlt

	.section .note.pvh, "a", @note
	.balign	4
	.long	4		/* size of the name */
	.long	8		/* size of the description */
	.long	18		/* XEN_ELFNOTE_PHYS32_ENTRY: Xen, public/elfnote.h */
	.asciz	"Xen"
	.quad	_start

	.section .note.GNU-stack, "", @progbits
