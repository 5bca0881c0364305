/*
 * The Multiboot 1 header and entry (Multiboot Specification 0.6.96), in three kinds: a 32-bit ELF, with ADDRESSES a flat image that
 * brings its own addresses, and with -m64 an ELF of high virtual addresses, which has to switch to long mode first.
 */
#define MAGIC 0x1badb002
/* Page-aligned modules and information on memory, a video mode, and a flag that nothing defines: the last two are to be ignored. */
#define WANTED 0x8007

#ifdef __x86_64__
#define PHYSICAL(symbol) ((symbol) - 0xffffffff80000000)
#else
#define PHYSICAL(symbol) (symbol)
#endif

	.section .text.header, "ax"
	.balign	4
#ifdef ADDRESSES
#define FLAGS (WANTED | 1 << 16)
#else
#define FLAGS WANTED
#endif
header:
	.long	MAGIC, FLAGS, -(MAGIC + FLAGS)
#ifdef ADDRESSES
	.long	header, load_start, load_end, bss_end, _start
#endif

	.code32
	.globl	_start
_start:
	mov	$PHYSICAL(stack_top), %esp
	/* The arguments of main, where both calling conventions find them. */
	mov	%eax, %edi
	mov	%ebx, %esi
	mov	%cr0, %edx
#ifndef __x86_64__
	push	%edx
	push	%ebx
	push	%eax
	call	main
#else
	mov	$PHYSICAL(pml4), %eax
	movl	$PHYSICAL(pdpt) + 3, (%eax)
	movl	$PHYSICAL(pdpt) + 3, 511 * 8(%eax)
	mov	%eax, %cr3
	mov	$PHYSICAL(pdpt), %eax
	movl	$PHYSICAL(directory) + 3, (%eax)
	movl	$PHYSICAL(directory) + 3, 510 * 8(%eax)
	mov	$PHYSICAL(directory), %ebx
	mov	$0x83, %eax		/* 2 MiB, writable, present */
	mov	$512, %ecx
1:	mov	%eax, (%ebx)
	add	$8, %ebx
	add	$0x200000, %eax
	loop	1b
	mov	%edx, %ebp
	mov	$0x20, %eax		/* CR4.PAE */
	mov	%eax, %cr4
	mov	$0xc0000080, %ecx	/* EFER */
	rdmsr
	or	$0x100, %eax		/* LME */
	wrmsr
	mov	$0x80000011, %eax	/* PG, ET, PE */
	mov	%eax, %cr0
	lgdtl	PHYSICAL(gdtr)
	ljmpl	$8, $PHYSICAL(long_mode)

	.balign	8
gdt:
	.quad	0, 0x00af9b000000ffff, 0x00cf93000000ffff
gdtr:
	.word	gdtr - gdt - 1
	.long	PHYSICAL(gdt)

	.code64
long_mode:
	mov	$0x10, %eax
	mov	%eax, %ds
	mov	%eax, %es
	mov	%eax, %ss
	mov	%ebp, %edx
	mov	$stack_top, %rsp
	mov	$main, %rax
	call	*%rax

	.section .bss.tables, "aw", @nobits
	.balign	4096
pml4:	.skip	4096
pdpt:	.skip	4096
directory:
	.skip	4096
#endif

	.section .bss.stack, "aw", @nobits
	.balign	16
	.skip	8192
stack_top:

	.section .note.GNU-stack, "", @progbits
